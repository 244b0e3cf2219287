"""The inference form: the same outputs, fewer operations, in every order and for every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

import ghostify
from ghostify import GhostConv2d
from ghostify.deploy.ghosts import FusedGhost
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.ghost import GhostConv
from ghostify.nn.order import Ordered


def alive(network: nn.Module) -> nn.Module:
    """The network in eval mode, its norms and biases no longer what they start as."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                if module.weight is not None:
                    module.weight.uniform_(-1, 1, generator=generator)
                    module.bias.normal_(0, 0.2, generator=generator)
            elif isinstance(module, _ConvNd) and module.bias is not None:
                module.bias.normal_(0, 0.2, generator=generator)
    return network.eval()


def shuffled(network: nn.Module, seed: int = 3) -> nn.Module:
    """The network with an order of its own in each of its ghost modules."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, GhostConv):
            module.set_order(torch.randperm(module.out_channels, generator=generator))
    return network


def difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected, found = one(x), other(x)
    assert expected.shape == found.shape
    return ((expected - found).abs().max() / expected.abs().max()).item()


def kinds(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("fold", [True, False], ids=["norms folded", "norms kept"])
@pytest.mark.parametrize("order", [alive, shuffled], ids=["plain order", "shuffled"])
@pytest.mark.parametrize(
    ("name", "s", "size"),
    [
        ("resnet20-cifar", 4, 32),
        ("resnet50", 3, 64),
        ("regnet_x_400mf", 4, 64),
        ("mobilenet_v2", 2, 64),
        ("efficientnet_b0", 4, 64),
        ("densenet121", 4, 64),
    ],
)
def test_the_outputs_stay(
    name: str, s: int, size: int, order: Callable[[nn.Module], nn.Module], fold: bool
) -> None:
    network = order(alive(ghostify.convert(ghostify.build(name), s=s)))
    fused = ghostify.fuse(network, fold_ghost_norms=fold)
    assert len(kinds(fused, FusedGhost)) == len(kinds(network, GhostConv2d)) > 0
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    assert difference(network, fused, x) < 1e-5


def test_the_callers_network_stays() -> None:
    network = alive(ghostify.convert("resnet20-cifar", s=4)).train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    fused = ghostify.fuse(network)
    after = network.state_dict()
    assert network.training and not fused.training
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


SEEN: list[str] = []


def note(module: nn.Module, args: tuple, output: Tensor) -> None:
    SEEN.append(type(module).__name__)


def test_what_hooks_of_the_callers_note_is_not_added_to() -> None:
    block = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16))
    network = ghostify.convert(nn.Sequential(block, nn.ReLU())).eval()
    network[0].register_forward_hook(note)
    fused, x = ghostify.fuse(network), torch.rand(1, 3, 8, 8)
    assert SEEN == []
    torch.testing.assert_close(fused(x), network(x), rtol=1e-4, atol=1e-5)
    SEEN.clear()


def test_in_place_it_is_the_same_network() -> None:
    network = alive(ghostify.convert("resnet20-cifar", s=2))
    copied = copy_network(network)
    assert ghostify.fuse_(network) is network
    assert difference(copied, network, torch.rand(2, 3, 32, 32)) < 1e-5


def test_a_network_that_was_not_converted_loses_its_norms_too() -> None:
    network = alive(ghostify.build("resnet18"))
    fused = ghostify.fuse(network)
    assert kinds(fused, nn.BatchNorm2d) == []
    assert difference(network, fused, torch.rand(2, 3, 64, 64)) < 1e-5


def test_most_orders_vanish_into_the_layers_around() -> None:
    network = shuffled(alive(ghostify.convert("resnet50", s=4)))
    ordered = [m for m in kinds(ghostify.fuse(network), FusedGhost) if m.order is not None]
    assert len(ordered) == 16  # residual sums: one order for each stage, others are picked
    plain = ghostify.fuse(ghostify.convert("resnet50", s=4))
    assert all(module.order is None for module in kinds(plain, FusedGhost))


def test_ghosts_come_of_convolutions_of_one_map_each() -> None:
    fused = ghostify.fuse(ghostify.convert("resnet50", s=4))
    cheap = [conv for ghost in kinds(fused, FusedGhost) for conv in ghost.cheap]
    assert len(cheap) == 3 * 53
    assert all(conv.groups == conv.in_channels == conv.out_channels for conv in cheap)


class Sum(nn.Module):
    """Two branches, summed; what else reads the first may be added."""

    def __init__(self, read: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16))
        self.two = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Conv2d(16, 8, 3, padding=1)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        maps = self.one(x) + self.two(x)
        out = self.last(maps)
        return out if self.read is None else out + self.read(maps)


@pytest.mark.parametrize(
    "read",
    [
        None,
        lambda maps: maps[:, 3:4],
        lambda maps: maps.view(maps.size(0), 8, 2, *maps.shape[2:]).sum(2),
        lambda maps: maps.flip(1)[:, :8],
        lambda maps: torch.cat([maps, maps], 1)[:, :8],
        lambda maps: maps.softmax(1)[:, :1],
        lambda maps: maps.amax(1, keepdim=True),
        lambda maps: maps.cumsum(1)[:, 4:12],
    ],
    ids=["sum", "slice", "view", "flip", "concat", "softmax", "max", "cumsum"],
)
def test_whoever_reads_channels_by_their_place_finds_them_there(
    read: Callable[[Tensor], Tensor] | None,
) -> None:
    network = shuffled(alive(ghostify.convert(Sum(read), s=4, input_size=(8, 9, 9))))
    fused = ghostify.fuse(network)
    assert len(kinds(fused, FusedGhost)) == len(kinds(network, GhostConv2d)) > 0
    assert difference(network, fused, torch.randn(2, 8, 9, 9)) < 1e-5


class SumOfMore(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.conv(x)
        return self.norm(maps) + maps


def test_a_norm_stays_where_something_else_reads_what_it_reads() -> None:
    network = alive(SumOfMore())
    fused = ghostify.fuse(network)
    assert len(kinds(fused, nn.BatchNorm2d)) == 1
    assert difference(network, fused, torch.randn(2, 3, 9, 9)) < 1e-5


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.two = (
            nn.Conv2d(8, 8, 3, padding=1),
            *(nn.BatchNorm2d(8) for _ in range(2)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.conv(self.one(self.conv(x))))


def test_a_layer_that_is_called_twice_stays_as_it_is() -> None:
    network = alive(ghostify.convert(Twice(), s=4, input_size=(8, 9, 9)))
    shuffled(network)
    assert difference(network, ghostify.fuse(network), torch.randn(2, 8, 9, 9)) < 1e-5


def test_a_network_that_does_not_trace_is_fused_in_its_parts() -> None:
    class Loops(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Sum()
            self.lone = nn.Conv2d(8, 16, 1)

        def forward(self, x: Tensor) -> Tensor:
            if x.sum() > 1e9:
                return x
            return self.lone(self.body(x))

    network = shuffled(alive(ghostify.convert(Loops(), s=4, input_size=(8, 9, 9))))
    fused = ghostify.fuse(network)
    assert len(kinds(fused, FusedGhost)) == len(kinds(network, GhostConv2d)) > 0
    assert difference(network, fused, torch.randn(2, 8, 9, 9)) < 1e-5


def test_a_norm_with_an_activation_inside_leaves_the_activation() -> None:
    class NormAct(nn.BatchNorm2d):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.act = nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(super().forward(x))

    class NormTwice(NormAct):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network = alive(nn.Sequential(nn.Conv2d(3, 8, 3), NormAct(8), nn.Conv2d(8, 8, 3), NormTwice(8)))
    fused = ghostify.fuse(network)
    assert isinstance(fused[1], nn.SiLU) and isinstance(fused[3], NormTwice)
    assert difference(network, fused, torch.randn(2, 3, 9, 9)) < 1e-5


@given(
    out_channels=st.integers(4, 24),
    s=st.integers(2, 6),
    d=st.sampled_from([1, 3]),
    stride=st.integers(1, 2),
    order=st.sampled_from(["plain", "shuffled", "any places"]),
    read=st.booleans(),
    seed=st.integers(0, 100),
)
@settings(max_examples=60, deadline=None)
def test_a_module_with_any_surplus_and_order_gives_the_same(
    out_channels: int, s: int, d: int, stride: int, order: str, read: bool, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ghost = GhostConv2d(4, out_channels, 3, stride, 1, s=s, d=d)
    if order == "shuffled":
        ghost.set_order(torch.randperm(out_channels, generator=generator))
    elif order == "any places":
        places = torch.randperm(ghost.primary.out_channels * s, generator=generator)
        ghost.set_order(places[:out_channels])
    norm = nn.BatchNorm2d(out_channels)
    after = nn.Conv2d(out_channels, 6, 1) if read else nn.Softmax(1)
    network = alive(nn.Sequential(ghost, norm, nn.ReLU(), after))
    x = torch.randn(2, 4, 8, 8, generator=generator)
    assert difference(network, ghostify.fuse(network), x) < 1e-5


def test_the_stages_of_g_ghost_are_fused_too() -> None:
    network = alive(ghostify.convert("resnet20-cifar", mode="cg-ghost"))
    assert kinds(network, Ordered)
    fused = ghostify.fuse(network)
    assert len(kinds(fused, nn.BatchNorm2d)) < len(kinds(network, nn.BatchNorm2d))
    assert difference(network, fused, torch.rand(2, 3, 32, 32)) < 1e-5


def test_what_is_no_network_is_refused_in_a_sentence() -> None:
    with pytest.raises(ghostify.GhostifyError, match="is none"):
        ghostify.fuse_(3)  # type: ignore[type-var]


CONVS = {
    "Conv1d": (nn.Conv1d, nn.BatchNorm1d, 1),
    "Conv2d": (nn.Conv2d, nn.BatchNorm2d, 2),
    "Conv3d": (nn.Conv3d, nn.BatchNorm3d, 3),
    "ConvTranspose1d": (nn.ConvTranspose1d, nn.BatchNorm1d, 1),
    "ConvTranspose2d": (nn.ConvTranspose2d, nn.BatchNorm2d, 2),
    "ConvTranspose3d": (nn.ConvTranspose3d, nn.BatchNorm3d, 3),
}


class Branched(nn.Module):
    """Convolutions of one kind, added, concatenated and averaged."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        conv, norm, self.dimensions = CONVS[kind]
        self.stem = nn.Sequential(conv(8, 24, 3, padding=1), norm(24), nn.ReLU())
        self.one = nn.Sequential(conv(24, 24, 3, padding=1), norm(24))
        self.two = nn.Sequential(conv(24, 24, 3, padding=1, bias=False), norm(24))
        self.three = conv(24, 18, 3, padding=1, groups=2)
        self.head = conv(42, 16, 1)
        self.last = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.relu(self.one(x) + self.two(x))
        x = self.head(torch.cat([self.three(x), x], dim=-1 - self.dimensions))
        return self.last(x.mean(list(range(2, 2 + self.dimensions))))


@pytest.mark.parametrize("fold", [True, False], ids=["norms folded", "norms kept"])
@pytest.mark.parametrize("s", [2, 3])
@pytest.mark.parametrize("order", [alive, shuffled], ids=["plain order", "shuffled"])
@pytest.mark.parametrize("kind", CONVS)
def test_ghosts_of_every_kind_have_an_inference_form(
    kind: str, order: Callable[[nn.Module], nn.Module], s: int, fold: bool
) -> None:
    torch.manual_seed(0)
    network = Branched(kind)
    x = torch.rand(2, 8, *[5] * network.dimensions)
    made = order(alive(ghostify.convert(network, s=s, example_inputs=(x,))))
    fused = ghostify.fuse(made, fold_ghost_norms=fold)
    assert difference(made, fused, x) < 1e-5
    assert len(kinds(fused, FusedGhost)) == len(kinds(made, GhostConv)) >= 4
    assert len(kinds(fused, _BatchNorm)) == 3  # of the intrinsic maps, or of all
    assert all(isinstance(m, FusedGhost) == fold for m in holders_of_norms(fused))


def holders_of_norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if any(isinstance(c, _BatchNorm) for c in m.children())]


@pytest.mark.parametrize("name", ["0", "1", "2", "3", "4"])
def test_hooks_still_see_and_change_what_they_did(name: str) -> None:
    network = nn.Sequential(
        nn.Conv2d(8, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
        nn.Conv2d(24, 24, 3, padding=1), nn.Conv2d(24, 8, 1),
    )  # fmt: skip
    made = shuffled(alive(ghostify.convert(network, example_inputs=(torch.rand(1, 8, 9, 9),))))
    by_channel = torch.arange(24.0).view(1, -1, 1, 1)
    made.get_submodule(name).register_forward_hook(lambda _, x, y: y * by_channel[:, : y.size(1)])
    assert difference(made, ghostify.fuse(made), torch.rand(2, 8, 9, 9)) < 1e-5


def test_ghost_modules_with_norms_inside_have_an_inference_form() -> None:
    network = alive(ghostify.build("c-ghostnet"))
    fused = ghostify.fuse(network)
    assert kinds(network, GhostConv) and not kinds(fused, GhostConv)
    assert not kinds(fused, _BatchNorm)
    assert difference(network, fused, torch.rand(2, 3, 64, 64)) < 1e-4


def test_a_fused_ghost_has_the_convolutions_settings() -> None:
    """Networks ask their layers for a stride, say."""

    class Asks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 16, 3)
            self.b = nn.Conv2d(16, 32, 3, stride=2, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return self.b(x)[..., : x.shape[-1] // self.b.stride[0]] * self.b.out_channels

    converted, x = ghostify.convert(Asks().eval(), s=2), torch.randn(2, 3, 12, 12)
    assert torch.allclose(ghostify.fuse(converted)(x), converted(x), atol=1e-4)
