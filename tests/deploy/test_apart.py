"""Ghost modules without their concat: the same outputs, whatever reads the maps."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ghostify
from ghostify.deploy.apart import (
    ConcatApart,
    DepthwiseApart,
    DividedConv,
    GhostApart,
    SummedConv,
)
from ghostify.deploy.maps_apart import MapsApart
from ghostify.deploy.program import Program
from ghostify.deploy.runtimes import RUNTIMES
from ghostify.errors import SettingsError
from ghostify.nn.ghost import GhostConv
from tests.deploy.test_fusing import alive, difference, kinds, shuffled

FREE = 0.0
"""An addition that costs nothing: no concat stays that can be left out."""

Change = Callable[[Any], Any]


def maps(seed: int = 0) -> Tensor:
    return torch.randn(2, 7, 6, 5, generator=torch.Generator().manual_seed(seed))


def apart(whole: Tensor) -> MapsApart:
    return MapsApart([part.clone() for part in whole.split([3, 3, 1], dim=1)], (3, 3, 1))


def gate() -> Tensor:
    return maps(2).mean((2, 3), keepdim=True)


CHANGES: dict[str, Change] = {
    "relu": F.relu,
    "relu in place": lambda x: F.relu(x, inplace=True),
    "silu": nn.SiLU(),
    "hardswish": nn.Hardswish(),
    "gelu": F.gelu,
    "max pool": lambda x: F.max_pool2d(x, 2),
    "adaptive pool": lambda x: F.adaptive_avg_pool2d(x, 1),
    "dropout": nn.Dropout(0.5).eval(),
    "identity": nn.Identity(),
    "a number added": lambda x: x + 1,
    "added to a number": lambda x: 1 + x,
    "maps added": lambda x: x + maps(1),
    "added to maps": lambda x: maps(1) + x,
    "maps apart added": lambda x: x + apart(maps(1)),
    "maps of other parts added": lambda x: x + MapsApart(maps(1).split([1, 6], dim=1), (1, 6)),
    "added twice as much": lambda x: torch.add(x, apart(maps(1)), alpha=2),
    "multiplied": lambda x: torch.mul(x, apart(maps(1))),
    "times two": lambda x: x * 2,
    "two times": lambda x: 2 * x,
    "times maps": lambda x: x * maps(1),
    "times a factor for each channel": lambda x: x * gate(),
    "a factor for each channel times": lambda x: gate() * x,
    "times a factor for each place": lambda x: torch.mul(x, maps(1)[:, :1]),
    "times a factor for each sample": lambda x: x * maps(1)[:, 0, 0, 0].view(2, 1, 1, 1),
    "times a row": lambda x: torch.mul(x, maps(1)[0, 0, 0]),
    "less, and divided": lambda x: (1 - x) / 3,
    "less maps apart": lambda x: x - apart(maps(1)),
    "squared and negated": lambda x: -(x**2),
    "compared": lambda x: (x > 0).float(),
    "indexed": lambda x: x[:, 2:5, 0],
    "one by one": lambda x: torch.stack(list(x)),
    "its length": lambda x: torch.tensor(len(x)),
    "concatenated": lambda x: torch.cat([x, maps(1)], dim=1),
    "a mean": lambda x: x.mean((2, 3)),
    "a mean that keeps its dimensions": lambda x: torch.mean(x, [-1, -2], keepdim=True),
    "a mean over channels": lambda x: x.mean(1),
    "a mean of all": lambda x: x.mean(),
    "a mean in another type": lambda x: x.mean((2, 3), dtype=torch.float64).float(),
    "a softmax over channels": lambda x: F.softmax(x, dim=1),
    "flattened": lambda x: torch.flatten(x, 1),
    "a convolution": lambda x: F.conv2d(x, torch.ones(2, 7, 3, 3)),
    "a view by its size": lambda x: x.view(x.size(0), -1),
    "its shape": lambda x: torch.tensor(x.shape),
    "some channels": lambda x: x.narrow(1, 2, 3),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_maps_apart_are_taken_as_their_concat(change: Change) -> None:
    found = change(apart(maps()))
    found = found.whole() if isinstance(found, MapsApart) else found
    assert torch.allclose(found, change(maps()))


IN_PLACE: dict[str, Change] = {
    "maps apart": lambda x: x.__iadd__(apart(maps(1))),
    "maps": lambda x: x.__iadd__(maps(1)),
    "relu": lambda x: F.relu(x, inplace=True),
    "a method": lambda x: x.add_(2),
    "a product": lambda x: x.__imul__(2),
    "a product with a gate": lambda x: x.__imul__(gate()),
    "a product with maps": lambda x: x.__imul__(maps(1)[0]),
    "an index": lambda x: x.__setitem__((slice(None), 4), 1),
}


@pytest.mark.parametrize("change", IN_PLACE.values(), ids=IN_PLACE)
def test_a_change_in_place_is_seen_by_whoever_holds_the_maps(change: Change) -> None:
    whole, held = maps(), apart(maps())
    change(whole)
    change(held)
    assert torch.allclose(held.whole(), whole)


class Residual(nn.Module):
    """Two blocks on a stream; what becomes of a block's inner maps can be chosen."""

    def __init__(self, between: nn.Module | Change = F.relu, width: int = 12) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.between = between
        self.outer = nn.Conv2d(width, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.outer(self.between(self.norm(self.inner(x))))
        y += x
        return self.head(F.relu(y))


def converted(network: nn.Module, s: int = 2) -> nn.Module:
    return alive(ghostify.convert(network, s=s, costlier=True, input_size=(3, 8, 8)))


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("fold", [True, False], ids=["norms folded", "norms kept"])
@pytest.mark.parametrize("s", [2, 3, 4])
def test_streams_and_inner_maps_need_no_concat(s: int, fold: bool) -> None:
    network = converted(Residual(), s)
    fused = ghostify.fuse(network, fold_ghost_norms=fold, addition=FREE)
    assert len(kinds(fused, GhostApart)) == 3
    assert difference(network, fused, X) < 1e-5


READ_OTHERWISE: dict[str, nn.Module | Change] = {
    "a softmax over channels": nn.Softmax(1),
    "channels in another order": lambda x: x.flip(1),
    "a mean over channels": lambda x: x - x.mean(1, keepdim=True),
    "a grouped convolution": nn.Conv2d(12, 12, 3, padding=1, groups=3),
    "a norm over groups": nn.GroupNorm(3, 12),
    "maps multiplied by themselves": lambda x: x * x,
}


@pytest.mark.parametrize("between", READ_OTHERWISE.values(), ids=READ_OTHERWISE)
def test_what_reads_all_channels_at_once_gets_a_concat(between: nn.Module | Change) -> None:
    network = converted(Residual(between))
    fused = ghostify.fuse(network, addition=FREE)
    assert type(fused.get_submodule("inner")) is not GhostApart
    assert difference(network, fused, X) < 1e-5


def test_a_depthwise_convolution_keeps_maps_apart() -> None:
    network = converted(Residual(nn.Conv2d(12, 12, 3, padding=1, groups=12)))
    fused = ghostify.fuse(network, addition=FREE)
    assert len(kinds(fused, DepthwiseApart)) == 1
    assert difference(network, fused, X) < 1e-5


class Gated(nn.Module):
    """Squeeze and excitation, as a user writes it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv(x.mean((2, 3), keepdim=True)).sigmoid()


def test_squeeze_and_excitation_keeps_maps_apart() -> None:
    network = converted(Residual(Gated(12)))
    fused = ghostify.fuse(network, addition=FREE)
    assert isinstance(fused.get_submodule("inner"), GhostApart)
    assert difference(network, fused, X) < 1e-5


class Projected(nn.Module):
    """A block whose shortcut is a convolution, with a norm or without."""

    def __init__(self, shortcut: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 12, 3, padding=1)
        self.shortcut = shortcut
        self.head = nn.Conv2d(12, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.inner(x) + self.shortcut(x)))


SHORTCUTS: dict[str, tuple[nn.Module, int]] = {
    "a convolution": (nn.Conv2d(8, 12, 1), 1),
    "and a norm": (nn.Sequential(nn.Conv2d(8, 12, 1, bias=False), nn.BatchNorm2d(12)), 1),
    "and an activation": (nn.Sequential(nn.Conv2d(8, 12, 1), nn.ReLU()), 0),
    "in groups": (nn.Conv2d(8, 12, 1, groups=2), 0),
}


@pytest.mark.parametrize(("shortcut", "divided"), SHORTCUTS.values(), ids=SHORTCUTS)
def test_a_convolution_that_is_added_gives_its_maps_apart(
    shortcut: nn.Module, divided: int
) -> None:
    network = Projected(shortcut)
    made = alive(ghostify.convert(network, keep=["shortcut*"], costlier=True, input_size=(3, 8, 8)))
    fused = ghostify.fuse(made, addition=FREE)
    assert len(kinds(fused, DividedConv)) == divided
    assert isinstance(fused.get_submodule("inner"), GhostApart) == bool(divided)
    assert difference(made, fused, X) < 1e-5


@pytest.mark.parametrize("width", [0.5, 1.0])
def test_a_network_built_of_ghost_modules_keeps_maps_apart(width: float) -> None:
    network = alive(ghostify.build("c-ghostnet", {"width": width}))
    fused = ghostify.fuse(network, addition=FREE)
    ghosts = len(kinds(network, GhostConv))
    assert len(kinds(fused, ConcatApart)) == ghosts - 1  # the stem's output is added to one
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert difference(network, fused, x) < 1e-5


def test_pytorch_is_tried_with_concats_too() -> None:
    made = RUNTIMES["eager"].program(converted(Residual()), (X,), X.device)
    apart, whole = (kinds(form.network, GhostApart) for form in made.forms.values())
    assert apart and not whole
    assert list(made.forms) == ["", "concats"]


@pytest.mark.parametrize("runtime", ["onnxruntime", "compile"])
def test_what_has_one_form_is_tried_in_that(runtime: str) -> None:
    made = RUNTIMES[runtime].program(converted(Residual()), (X,), X.device)
    assert [type(form) for form in made.forms.values()] == [Program]


def test_a_concat_stays_where_adding_up_costs_more() -> None:
    network = converted(Residual())  # 12 maps are copied for 24, 4 and 4 are added
    cheap = ghostify.fuse(network, addition=24 / 4 - 1)
    assert isinstance(cheap.get_submodule("inner"), GhostApart)
    dear = ghostify.fuse(network, addition=24 / 4 + 1)
    assert not isinstance(dear.get_submodule("inner"), GhostApart)


@pytest.mark.parametrize("addition", [None, math.inf])
def test_without_additions_every_ghost_module_concatenates(addition: float | None) -> None:
    fused = ghostify.fuse(converted(Residual()), addition=addition)
    assert not kinds(fused, GhostApart)


@pytest.mark.parametrize("addition", [-1, "3", math.nan])
def test_a_cost_that_makes_no_sense_is_refused_in_a_sentence(addition: Any) -> None:
    with pytest.raises(SettingsError, match=r"addition=.* makes no sense: give a number of 0"):
        ghostify.fuse(Residual(), addition=addition)


def test_a_network_gives_no_maps_apart() -> None:
    network = converted(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)))
    fused = ghostify.fuse(network, addition=FREE)
    assert kinds(fused, GhostApart) and isinstance(fused(X), Tensor)
    assert difference(network, fused, X) < 1e-5


def test_a_ghost_module_that_the_user_watches_concatenates() -> None:
    network = converted(Residual())
    seen: list[Any] = []
    network.get_submodule("inner").register_forward_hook(lambda *a: seen.append(a[-1]))
    ghostify.fuse(network, addition=FREE)(X)
    assert all(isinstance(value, Tensor) for value in seen)


def test_a_stream_whose_modules_have_orders_of_their_own_is_concatenated() -> None:
    network = shuffled(converted(Residual()))
    fused = ghostify.fuse(network, addition=FREE)
    assert isinstance(fused.get_submodule("inner"), GhostApart)
    assert difference(network, fused, X) < 1e-5


@settings(deadline=None, max_examples=20)
@given(data=st.data())
def test_a_sum_of_convolutions_is_the_convolution(data: st.DataObject) -> None:
    draw = data.draw
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    conv = nn.Conv2d(
        sum(sizes), draw(st.integers(1, 5)), draw(st.integers(1, 3)), draw(st.integers(1, 2)),
        draw(st.integers(0, 2)), draw(st.integers(1, 2)), bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "circular"])),
    )  # fmt: skip
    x = torch.randn(2, sum(sizes), 7, 7)
    summed = SummedConv.of(conv, sizes)
    assert torch.allclose(summed(MapsApart(x.split(sizes, dim=1), sizes)), conv(x), atol=1e-5)
    assert torch.allclose(summed(x), conv(x), atol=1e-5)


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "densenet121", "shufflenet_v2_x1_0"])
def test_networks_give_the_same_without_concats(name: str) -> None:
    network = alive(ghostify.convert(ghostify.build(name), s=2))
    fused = ghostify.fuse(network, addition=FREE)
    assert len(kinds(fused, GhostApart)) > len(kinds(network, GhostConv)) / 4
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert difference(network, fused, x) < 1e-5


def test_a_fused_network_can_be_copied_and_pickled() -> None:
    fused = ghostify.fuse(converted(Residual()), addition=FREE)
    for made in (copy.deepcopy(fused), pickle.loads(pickle.dumps(fused))):
        assert difference(fused, made, X) == 0


def exported(network: nn.Module) -> Change:
    return torch.export.export(network, (X,)).module()


def traced(network: nn.Module) -> Change:
    return torch.jit.trace(network, X)  # type: ignore[no-any-return]


@pytest.mark.parametrize("write", [exported, traced, torch.fx.symbolic_trace])
def test_whatever_writes_down_a_network_writes_down_this_one(write: Any) -> None:
    fused = ghostify.fuse(converted(Residual()), addition=FREE)
    with torch.no_grad():
        assert torch.allclose(write(fused)(X), fused(X), atol=1e-6)


def test_a_file_of_onnx_holds_fewer_concats(tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    network = alive(ghostify.convert("resnet20-cifar", s=2))
    ghostify.export(network, tmp_path / "n.onnx", input_size=(3, 32, 32))  # compares outputs too
    nodes = onnx.load(tmp_path / "n.onnx").graph.node
    ghosts = len(kinds(network, GhostConv))
    assert 0 < sum(node.op_type == "Concat" for node in nodes) < 0.6 * ghosts
