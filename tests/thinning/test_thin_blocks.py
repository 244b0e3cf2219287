"""Thin blocks: what their layers keep, which channels go through them, how their code changes."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostify
from ghostify.graph.trace import BlockTracer
from ghostify.thinning.channel_propagation import (
    Maps,
    Wanted,
    layers_inside,
    next_group_width,
    propagate_channels,
)
from ghostify.thinning.slicers import NotScalable, Widths
from ghostify.thinning.thin import ThinRecipe, build_thin
from tests.passes.blocks import KINDS, Net

SIZE = {"input_size": (3, 12, 12)}


def _net(kind="Basic", channels=16, blocks=4, **options):
    torch.manual_seed(0)
    return Net(KINDS[kind], channels, blocks, **options).eval()


def _convert(net, **options):
    return ghostify.convert(net, mode="g-ghost", **{**SIZE, **options})


def _thin(block: nn.Module, arriving: Tensor, channels: int = 16, **options) -> ThinRecipe:
    """How a block of this many channels gets half as wide."""
    meta = block.to("meta").eval()
    x = torch.empty(1, channels, 6, 6, device="meta")
    return propagate_channels(meta, Maps(x, arriving), Widths(channels, channels // 2), **options)


def test_thin_blocks_take_the_slices_of_the_channels_that_are_kept():
    net = _net(channels=16)
    thin = _convert(net).stage.thin[0]
    assert torch.equal(thin.conv1.weight, net.stage[1].conv1.weight[:8, :8])
    assert torch.equal(thin.bn1.running_var, net.stage[1].bn1.running_var[:8])
    assert torch.equal(thin.conv2.bias, net.stage[1].conv2.bias[:8])


def test_a_layer_after_a_concat_takes_the_slices_of_what_was_concatenated():
    class Twice(nn.Module):
        def __init__(self, c, groups):
            super().__init__()
            self.a, self.b = nn.Conv2d(c, c, 1), nn.Conv2d(c, c, 1)
            self.fuse = nn.Conv2d(2 * c, c, 1)

        def forward(self, x):
            return x + self.fuse(torch.cat([self.a(x), self.b(x)], 1))

    net = Net(Twice, 8, 3)
    thin = _convert(net).stage.thin[0]
    kept = [0, 1, 2, 3, 8, 9, 10, 11]
    assert torch.equal(thin.fuse.weight, net.stage[1].fuse.weight[:4][:, kept])


def test_narrower_groups_take_the_first_channels_of_each_original_group():
    net = _net("Bottleneck", channels=16, blocks=3, groups=2)
    thin = _convert(net, group_width=0.5).stage.thin[0]
    old, new = net.stage[1].body[3], thin.body[3]
    assert (old.groups, new.groups, new.in_channels) == (2, 2, 4)
    assert torch.equal(new.weight, old.weight[[0, 1, 4, 5]][:, :2])


def test_a_projected_entry_puts_a_projection_into_the_shortcut():
    thin = _convert(_net(), entry="project").stage.thin[0]
    projection = thin.shortcut_projection
    assert (projection[0].in_channels, projection[0].out_channels) == (16, 8)
    assert type(thin).__name__ == "Basic"


def test_a_layer_of_an_unknown_kind_leaves_its_stage_with_the_reason():
    class Odd(nn.Module):
        def __init__(self, c, groups):
            super().__init__()
            self.up = nn.ConvTranspose2d(c, c, 3, padding=1, groups=2)

        def forward(self, x):
            return x + self.up(x)

    plan = ghostify.plan(Net(Odd, 8, 3), mode="g-ghost", **SIZE)
    assert "ConvTranspose2d can't be made thinner" in plan.kept_stages[0].reason


def test_blocks_that_behave_differently_in_training_stay_their_own_class():
    class Drop(KINDS["Basic"]):
        def forward(self, x):
            return F.dropout(super().forward(x), 0.5, training=self.training)

    converted = _convert(Net(Drop, 8, 3))
    x = torch.randn(2, 3, 12, 12)
    assert not torch.equal(converted.train()(x), converted(x))
    assert torch.equal(converted.eval()(x), converted(x))
    reason = ghostify.plan(Net(Drop, 8, 3), mode="g-ghost", entry="project", **SIZE).kept_stages
    assert "training mode" in reason[0].reason


def test_every_layer_keeps_what_the_layers_before_it_gave() -> None:
    arriving, leaving = torch.arange(8), torch.arange(1, 16, 2)
    inside = torch.arange(8, 16)
    recipe = _thin(KINDS["Basic"](16), arriving, wanted=Wanted(leaving, {"conv1": inside}))
    kept = {name: (cut.inputs, cut.outputs) for name, cut in recipe.cuts.items()}
    assert torch.equal(kept["conv1"][0], arriving) and torch.equal(kept["conv1"][1], inside)
    assert torch.equal(kept["bn1"][1], inside)
    assert torch.equal(kept["conv2"][0], inside) and torch.equal(kept["conv2"][1], leaving)
    assert not recipe.is_edited and not recipe.shortcuts


def test_a_parameter_with_a_value_for_each_channel_is_cut_with_them() -> None:
    recipe = _thin(KINDS["ConvNext"](16), torch.arange(8))
    assert torch.equal(recipe.vectors["gamma"], torch.arange(8))
    assert build_thin(KINDS["ConvNext"](16), recipe).gamma.shape == (8,)


def test_a_shortcut_of_another_width_gets_a_projection_from_what_arrives() -> None:
    arriving = torch.arange(16)
    recipe = _thin(KINDS["Basic"](16), arriving)
    ((name, shortcut),) = recipe.shortcuts.items()
    taken, given = shortcut.arriving, shortcut.leaving
    assert torch.equal(taken, arriving) and torch.equal(given, torch.arange(8))
    assert recipe.is_edited
    thin = build_thin(KINDS["Basic"](16), recipe)
    assert thin.get_submodule(name)(torch.randn(2, 16, 6, 6)).shape == (2, 8, 6, 6)


def test_a_shared_layer_that_would_keep_other_channels_each_time_is_refused() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.again(self.first(x)))

    with pytest.raises(NotScalable, match="again is used twice, on different channels"):
        _thin(Twice(), torch.arange(8), wanted=Wanted(torch.arange(1, 16, 2)))


@pytest.mark.parametrize("way", ["narrow", "split", "slice"])
def test_parts_of_the_channels_are_the_same_parts_of_the_thin_map(way: str) -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.fuse = nn.Conv2d(8, 8, 1), nn.Conv2d(16, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            if way == "narrow":
                left, right = x.narrow(1, 0, 8), torch.narrow(x, 1, 8, 8)
            elif way == "split":
                left, right = x.split(8, 1)
            else:
                left, right = x[:, :8], x[:, 8:]
            return x + self.fuse(torch.cat([left, self.conv(right)], 1))

    thin = build_thin(Parts(), _thin(Parts(), torch.arange(8)))
    assert (thin.conv.in_channels, thin.conv.out_channels) == (4, 4)
    assert thin(torch.randn(2, 8, 6, 6)).shape == (2, 8, 6, 6)


def test_layers_inside_a_block_are_those_behind_a_layer() -> None:
    block = KINDS["InvertedResidual"](8)
    inside = {str(node.target) for node in layers_inside(BlockTracer().trace(block), block)}
    assert {"expand", "depthwise", "reduce"} <= inside
    assert "project" not in inside


def test_the_width_of_the_next_groups_is_found_through_norms_and_activations() -> None:
    block = KINDS["Bottleneck"](16, groups=2)
    graph = BlockTracer().trace(block)
    widths = {
        str(node.target): next_group_width(node, block)
        for node in graph.nodes
        if node.op == "call_module" and isinstance(block.get_submodule(str(node.target)), nn.Conv2d)
    }
    assert widths == {"body.0": 4, "body.3": None, "body.6": None}
