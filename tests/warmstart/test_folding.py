"""Orders folded into the neighbours: the outputs stay, and where they can't, the order stays."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

import ghostify
from ghostify.graph.segments import split
from ghostify.nn.ghost import GhostConv2d
from ghostify.warmstart.folding import fold_orders


def _shuffled(network: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A network with norms that are worth their name, and its ghosts, each in another order."""
    torch.manual_seed(0)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                nn.init.uniform_(tensor, 0.5, 1.5)
    converted = ghostify.convert(network.eval(), s=2).eval()
    for ghost in _ghosts(converted).values():
        ghost.set_order(torch.randperm(ghost.out_channels))
    return network, converted


def _ghosts(network: nn.Module) -> dict[str, GhostConv2d]:
    return {name: m for name, m in network.named_modules() if isinstance(m, GhostConv2d)}


def _fold(network: nn.Module, converted: nn.Module) -> set[str]:
    """Names of the ghost modules that keep their order."""
    fold_orders(split(network, _ghosts(converted).__contains__), converted)
    return {name for name, ghost in _ghosts(converted).items() if ghost.order is not None}


class Chain(nn.Module):
    """A block with two convolutions of its own in the branch, and something between them."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.between = between
        self.outer = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, 8, H, W)``."""
        x = self.first(x)
        return x + self.outer(self.between(self.inner(x)))


@pytest.mark.parametrize(
    ("make", "inner"),
    [
        (torchvision.models.resnet18, r"layer\d\.\d\.conv1"),
        (torchvision.models.mobilenet_v2, r"features\.\d+\.conv\.0\.0"),
    ],
)
def test_real_networks_give_what_they_gave(make: Callable[[], nn.Module], inner: str) -> None:
    network, converted = _shuffled(make())
    x = torch.randn(2, 3, 64, 64)
    wanted = converted(x)
    folded = set(_ghosts(converted)) - _fold(network, converted)
    assert folded and all(re.fullmatch(inner, name) for name in folded)
    torch.testing.assert_close(converted(x), wanted, rtol=1e-4, atol=1e-4)


def test_in_a_residual_network_the_first_convolution_of_each_block_is_folded() -> None:
    network, converted = _shuffled(ghostify.build("resnet20-cifar"))
    kept = _fold(network, converted)
    assert kept == {name for name in _ghosts(converted) if not name.endswith(".conv1")}


def test_in_a_chain_every_convolution_ends_a_segment_and_keeps_its_order() -> None:
    network, converted = _shuffled(ghostify.build("vgg16-cifar", {"width": 0.25}))
    assert _fold(network, converted) == set(_ghosts(converted))


@pytest.mark.parametrize(
    "between",
    [
        nn.Sequential(nn.BatchNorm2d(8), nn.ReLU()),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.MaxPool2d(3, 1, 1),
    ],
)
def test_what_keeps_channels_apart_is_passed(between: nn.Module) -> None:
    network, converted = _shuffled(Chain(between))
    x = torch.randn(2, 3, 8, 8)
    wanted = converted(x)
    assert "inner" not in _fold(network, converted)
    torch.testing.assert_close(converted(x), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "between",
    [
        nn.GroupNorm(2, 8),
        nn.PReLU(8),
        nn.ChannelShuffle(2),
        nn.Softmax2d(),
        torchvision.ops.FrozenBatchNorm2d(8),
    ],
)
def test_what_mixes_channels_or_is_not_known_needs_the_order(between: nn.Module) -> None:
    network, converted = _shuffled(Chain(between))
    before = copy.deepcopy(converted.state_dict())
    assert "inner" in _fold(network, converted)
    after = converted.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_norm_that_serves_twice_is_not_touched() -> None:
    chain = Chain(nn.BatchNorm2d(8))
    chain.outer = nn.Sequential(chain.between, nn.Conv2d(8, 8, 1))
    network, converted = _shuffled(chain)
    assert "inner" in _fold(network, converted)


def test_weights_that_are_shared_are_not_touched() -> None:
    network, converted = _shuffled(Chain(nn.Identity()))
    ghosts = _ghosts(converted)
    ghosts["outer"].primary.weight = ghosts["inner"].primary.weight
    assert "inner" in _fold(network, converted)


def test_a_warm_start_leaves_no_order_that_can_be_folded() -> None:
    network = ghostify.build("resnet20-cifar").eval()
    warm = ghostify.convert(network, s=2, calibration=torch.randn(32, 3, 32, 32))
    ordered = {name for name, ghost in _ghosts(warm).items() if ghost.order is not None}
    assert ordered and not any(name.endswith(".conv1") for name in ordered)
