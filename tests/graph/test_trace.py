"""Graphs of networks: leaves by what they are, the largest parts that trace, where it stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostify
from ghostify.graph.ends import find_ends
from ghostify.graph.trace import LAYERS, trace, weights_read_directly
from ghostify.settings.selectors import Ends


def called(tracing_of: nn.Module) -> list[str]:
    whole = trace(tracing_of).whole
    assert whole is not None
    return [str(node.target) for node in whole.graph.nodes if node.op == "call_module"]


class OwnConv(nn.Conv2d):
    """A subclass from outside torch.nn whose forward calls a function."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * 2, self.bias)


class OwnNorm(nn.BatchNorm2d):
    """A subclass from outside torch.nn whose forward asks for the mode."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        return x


def test_subclasses_of_layers_and_norms_stay_one_node() -> None:
    assert called(nn.Sequential(OwnConv(3, 4, 3), OwnNorm(4), nn.ReLU())) == ["0", "1", "2"]


def test_ghost_modules_stay_one_node(small_net: nn.Module) -> None:
    converted = ghostify.convert(small_net)
    assert called(converted) == ["stem", "norm", "body.0", "body.1", "body.2", "last", "head"]


def test_tracing_changes_nothing(small_net: nn.Module) -> None:
    before = list(map(id, small_net.modules()))
    trace(small_net)
    assert list(map(id, small_net.modules())) == before


def test_optional_arguments_stay_at_their_defaults_unless_given() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.extra = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            out = self.conv(x)
            return out if mask is None else out + self.extra(mask)

    assert called(Net()) == ["conv"]
    whole = trace(Net(), frozenset({"mask"})).whole
    assert whole is not None
    assert "extra" in {node.target for node in whole.graph.nodes}


def test_where_the_whole_does_not_trace_the_largest_parts_do() -> None:
    class Middle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x) if bool(x.mean() > 0) else x

    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 1)), Middle(), nn.ReLU())
    tracing = trace(model)
    assert tracing.whole is None
    assert [region.name for region in tracing.regions] == ["0", "1.inner"]
    assert [stop.module for stop in tracing.stops] == ["", "1"]
    assert all("test_trace.py:" in stop.where for stop in tracing.stops)


def test_the_line_where_tracing_stopped_is_the_networks_own() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else self.conv(x)  # the line

    lines = Path(__file__).read_text().splitlines()
    here = next(n for n, line in enumerate(lines, 1) if line.endswith("# the line"))
    (stop,) = trace(Net()).stops
    assert stop.where.startswith(f"graph/test_trace.py:{here}: TraceError")


def test_a_weight_read_beside_its_layer_is_found() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read, self.used = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(F.conv2d(x, self.read.weight))

    model = Net()
    assert set(weights_read_directly(trace(model), model)) == {"read"}


def ends_of(model: nn.Module) -> Ends:
    layers = [name for name, module in model.named_modules() if isinstance(module, LAYERS)]
    return find_ends(trace(model), model, layers)


@pytest.mark.parametrize(
    ("name", "stem", "head"),
    [
        ("resnet18", {"conv1"}, {"fc"}),
        ("densenet121", {"features.conv0"}, {"classifier"}),
        ("vgg11", {"features.0"}, {"classifier.6"}),
        ("squeezenet1_1", {"features.0"}, {"classifier.1"}),
        ("mobilenet_v3_small", {"features.0.0"}, {"classifier.3"}),
        ("resnet20-cifar", {"conv1"}, {"linear"}),
        ("timm/hrnet_w18_small", {"conv1"}, {"classifier"}),
        ("timm/convmixer_768_32", {"stem.0"}, {"head"}),
        ("timm/res2net50_14w_8s", {"conv1"}, {"fc"}),
    ],
)
def test_stem_and_head_are_found_from_the_graph(name: str, stem: set[str], head: set[str]) -> None:
    with torch.device("meta"):
        model = ghostify.build(name)
    assert ends_of(model.eval()) == Ends(frozenset(stem), frozenset(head))


def test_a_network_may_have_several_stems_and_heads() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Conv2d(8, 2, 1)  # defined first, called last
            self.left, self.right = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.middle = nn.Conv2d(8, 8, 1)
            self.score = nn.Conv2d(8, 1, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            maps = self.middle(torch.cat([self.left(x), self.right(x)], 1))
            return self.out(maps), self.score(maps)

    assert ends_of(Net()) == Ends(frozenset({"left", "right"}), frozenset({"out", "score"}))


def test_reading_a_shape_is_no_way_from_input_to_output() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out = self.last(self.first(x))
            return F.interpolate(out, size=x.shape[-2:])

    assert ends_of(Net()) == Ends(frozenset({"first"}), frozenset({"last"}))


def test_where_nothing_traces_the_ends_are_the_first_and_last_called() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.first = nn.Conv2d(8, 8, 3), nn.Conv2d(3, 8, 3)

        def forward(self, *images: Tensor) -> Tensor:
            (image,) = images
            return self.last(self.first(image)) if len(image) > 0 else image

    plan = ghostify.plan(Net(), keep="stem", input_size=(3, 8, 8))
    assert plan.untraced
    assert [item.name for item in plan.replaced] == ["last"]
    plan = ghostify.plan(Net(), keep="head", input_size=(3, 8, 8))
    assert [item.name for item in plan.replaced] == ["first"]
