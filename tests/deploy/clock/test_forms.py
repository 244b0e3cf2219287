"""A layer in each of its forms: what is measured, and what counts as the same."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostify
from ghostify.deploy import RUNTIMES
from ghostify.deploy.clock.forms import TimedLayer, as_fitted, find_timed_layers, form_of
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.table import LEFT
from ghostify.deploy.ghosts import FusedGhost
from ghostify.nn import GGhostStage
from ghostify.passes.survey import survey
from ghostify.plans import Replacement
from ghostify.settings import CGhost, Clock

SIZE = (3, 12, 12)


def timed(network: nn.Module, batch: int = 1) -> dict[str, TimedLayer]:
    seen = survey(network, input_size=SIZE)
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    return find_timed_layers(network, seen, (torch.rand(batch, *SIZE),), names)


def test_layers_come_with_the_norm_and_activation_that_read_them(network: nn.Module) -> None:
    found = timed(network)
    assert [type(m) for m in found["3"].after] == [nn.BatchNorm2d, nn.ReLU]
    assert found["9"].after == ()


def test_equal_layers_have_one_signature_and_others_another(network: nn.Module) -> None:
    found = timed(network)
    assert found["3"].signature == found["6"].signature != found["0"].signature
    assert found["3"].signature != timed(network, batch=2)["3"].signature


class Functional(nn.Module):
    """Calls one layer twice, functions after it, and its input again."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.leaky_relu(self.first(x), 0.2)
        x = self.second(x).relu()
        return x + self.second(x)


def test_functions_are_measured_and_a_layer_called_twice_counts_twice() -> None:
    found = timed(Functional().eval())
    x = torch.randn(2, 3)
    (leaky,) = found["first"].after
    torch.testing.assert_close(leaky(x), F.leaky_relu(x, 0.2))
    assert (found["first"].calls, found["second"].calls) == (1, 2)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_ghost_module_is_measured_without_the_index_of_an_output(
    network: nn.Module, runtime: str
) -> None:
    layer, item = timed(network)["3"], Replacement("3", "Conv2d", 4, 3, 64, 64, (3, 3))
    left, ghost = (layer.program(i, CGhost(), RUNTIMES[runtime]) for i in (None, item))
    assert left.run()[0].shape == ghost.run()[0].shape == (1, 64, 12, 12)
    (fused,) = (m for m in ghost.network.modules() if isinstance(m, FusedGhost))
    assert fused.order is None and len(fused.cheap) == 3


class Residual(nn.Module):
    """A block on a stream, and a head that flips the channels of what it reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.outer, self.last = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(F.relu(self.inner(x)))
        return self.last(x).flip(1)


def test_orders_need_an_index_where_others_write_the_channels_or_read_them_by_place() -> None:
    found = timed(Residual().eval())
    assert [name for name, layer in found.items() if layer.needs_index] == ["stem", "outer", "last"]


@pytest.mark.parametrize(("name", "has_index"), [("inner", False), ("outer", True)])
def test_after_a_warm_start_the_index_is_measured_too(name: str, has_index: bool) -> None:
    layer, item = timed(Residual().eval())[name], Replacement(name, "Conv2d", 2, 3, 8, 8, (3, 3))
    program = layer.program(item, CGhost(), RUNTIMES["eager"], is_fitted=True)
    (fused,) = (m for m in program.network.modules() if isinstance(m, FusedGhost))
    assert (fused.order is not None) == has_index
    cold = layer.program(item, CGhost(), RUNTIMES["eager"])
    (fused,) = (m for m in cold.network.modules() if isinstance(m, FusedGhost))
    assert fused.order is None


def test_the_stages_of_a_network_have_an_order_after_a_warm_start_too() -> None:
    made = ghostify.convert("resnet20-cifar", mode="g-ghost", ratio=0.5)
    x = torch.rand(1, 3, 32, 32)
    stages = [m for m in as_fitted(made).modules() if isinstance(m, GGhostStage)]
    assert len(stages) == 3 and all(stage.order is not None for stage in stages)
    assert made.eval()(x).shape == (1, 10)


def test_a_form_says_how_ghosts_are_made() -> None:
    item = Replacement("a", "Conv2d", 4, (3, 1), 8, 64, (3, 1), divisor=8)
    settings = CGhost(bias_mode="primary")
    assert form_of(item, settings, nn.Conv2d(8, 64, 3)) == "s=4, d=3x1, divisor=8, bias=primary"
    assert form_of(item, CGhost(), nn.Conv2d(8, 64, 3), True) == "s=4, d=3x1, divisor=8, order"
    assert form_of(item, settings, nn.Conv2d(8, 64, 3, bias=False)) == "s=4, d=3x1, divisor=8"


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_layers_are_measured_in_all_their_forms(network: nn.Module, runtime: str) -> None:
    layers, item = timed(network), Replacement("3", "Conv2d", 2, 3, 64, 64, (3, 3))
    own = RUNTIMES[runtime]
    with Stopwatch(network, Clock(runtime), input_size=SIZE) as stopwatch:
        forming = {
            LEFT: lambda: layers["3"].program(None, CGhost(), own),
            "s=2, d=3": lambda: layers["3"].program(item, CGhost(), own),
            "fails": lambda: layers["3"].program(item, None, own),
        }
        found = stopwatch.layers([(layers["3"], forming)], own.forms[0], lambda _: None)
        milliseconds, form = stopwatch.original()
    assert list(found) == [layers["3"].signature]
    assert found[layers["3"].signature].keys() == {LEFT, "s=2, d=3"}
    assert all(0 < value < 1e3 for value in found[layers["3"].signature].values())
    assert 0 < milliseconds < 1e3 and form in own.forms


def test_a_conversion_is_measured_with_orders_as_a_fit_gives_them(network: nn.Module) -> None:
    made = ghostify.convert(network, s=3, input_size=SIZE)
    x = torch.rand(1, *SIZE)
    before = made(x).sum()
    orders = [m.order for m in as_fitted(made).modules() if getattr(m, "order", None) is not None]
    assert len(orders) == 3 and made(x).shape == (1, 64, 12, 12)
    torch.testing.assert_close(ghostify.fuse(made)(x), made(x))
    assert before.isfinite()
