"""A layer in each of its forms: what is measured, and what counts as the same."""

from __future__ import annotations

import json
from pathlib import Path

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
        self.stem, self.inner = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.outer, self.last = nn.Conv2d(16, 8, 3, padding=1), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(F.relu(self.inner(x)))
        return self.last(x).flip(1)


def test_orders_need_an_index_where_others_write_the_channels_or_read_them_by_place() -> None:
    found = timed(Residual().eval())
    assert [name for name, layer in found.items() if layer.needs_index] == ["stem", "outer", "last"]


def test_after_a_warm_start_the_index_is_measured_too() -> None:
    layer, item = timed(Residual().eval())["outer"], Replacement("outer", "", 2, 3, 16, 8, (3, 3))
    for leaves, has_index in (("", False), ("order", True)):
        program = layer.program(item, CGhost(), RUNTIMES["eager"], leaves)
        (fused,) = (m for m in program.network.modules() if isinstance(m, FusedGhost))
        assert (fused.order is not None) == has_index


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_maps_that_the_network_keeps_apart_are_measured_without_their_concat(runtime: str) -> None:
    pytest.importorskip(runtime if runtime != "eager" else "torch")
    layer, item = timed(Residual().eval())["inner"], Replacement("inner", "", 2, 3, 8, 16, (3, 3))
    program = layer.program(item, CGhost(), RUNTIMES[runtime], "apart")
    assert [t.shape for t in program.run()] == [(1, 8, 12, 12)] * 2
    with Stopwatch(Residual(), Clock(runtime), input_size=SIZE) as stopwatch:
        left = layer.program(None, CGhost(), RUNTIMES[runtime])
        forming = {LEFT: lambda: left, "apart": lambda: program}
        found = stopwatch.layers([(layer, forming)], RUNTIMES[runtime].forms[0], lambda _: None)
    assert found[layer.signature].keys() == {LEFT, "apart"}


@pytest.mark.parametrize(
    ("calibration", "forms"),
    [
        (None, {"stem": "", "inner": ", apart", "outer": "", "last": ""}),
        ("images", {"stem": ", order", "inner": ", apart", "outer": ", order", "last": ", order"}),
    ],
)
def test_each_layer_is_timed_as_its_maps_leave_it_in_the_network(
    calibration: str | None, forms: dict[str, str], tmp_path: Path
) -> None:
    images = None if calibration is None else torch.rand(8, *SIZE)
    options = {"runtime": "eager", "latency_table": tmp_path / "t.json", "input_size": SIZE}
    ghostify.plan(Residual().eval(), costlier=True, calibration=images, **options)
    times = json.loads((tmp_path / "t.json").read_text())["times"]
    found = {tuple(own) for own in times.values()}
    assert found == {("left", f"s=2, d=3{end}") for end in forms.values()}


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
    assert form_of(item, CGhost(), nn.Conv2d(8, 64, 3), "order") == "s=4, d=3x1, divisor=8, order"
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
