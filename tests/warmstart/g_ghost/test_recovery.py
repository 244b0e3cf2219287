"""Stages that a G-Ghost stage can equal: the warm start finds the channels and the weights."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ghostify
from ghostify import GGhostStage

SIZE = (3, 12, 12)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = noise(64, *SIZE)


class Plus(nn.Module):
    """A residual block whose sum is its output; only ``busy`` channels of its input change."""

    def __init__(self, channels: int, busy: list[int], units: list[int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        reads, gives = torch.zeros(channels), torch.zeros(channels)
        reads[busy], gives[units] = 1, 1
        with torch.no_grad():
            nn.init.normal_(self.conv1.weight, std=0.5)
            nn.init.normal_(self.conv2.weight, std=0.5)
            self.conv1.weight.mul_(reads.view(1, -1, 1, 1) * gives.view(-1, 1, 1, 1))
            self.conv2.weight.mul_(gives.view(1, -1, 1, 1) * reads.view(-1, 1, 1, 1))
            self.bn2.weight.mul_(reads)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))


def network(busy: list[int], channels: int = 8, seed: int = 1) -> nn.Module:
    """A stage in which half of the channels change, by half of the inner ones, after Y1."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        everything = list(range(channels))
        units = torch.randperm(channels)[: channels // 2].tolist()
        blocks = [Plus(channels, everything, everything)]
        blocks += [Plus(channels, busy, units) for _ in range(2)]
        blocks += [Plus(channels, everything, everything)]
        stem = nn.Conv2d(3, channels, 3, padding=1)
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 4))
        return nn.Sequential(stem, nn.Sequential(*blocks), head).eval()


def warm(net: nn.Module, **options: Any) -> nn.Module:
    return ghostify.convert(
        net, mode="g-ghost", input_size=SIZE, calibration=IMAGES, calibration_samples=64, **options
    )


def stage_of(net: nn.Module) -> GGhostStage:
    return next(m for m in net.modules() if isinstance(m, GGhostStage))


@torch.no_grad()
def gap(made: nn.Module, net: nn.Module) -> float:
    """Relative error of what the stage makes of images not used before."""
    x = noise(32, *SIZE, seed=5)
    one, other = made[1](made[0](x)), net[1](net[0](x))
    return float((one - other).square().sum() / other.square().sum())


@pytest.mark.parametrize("preset", ["cifar", "resnet"])
@pytest.mark.parametrize("busy", [[1, 4, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]])
def test_a_stage_that_a_ghost_stage_can_equal_is_recovered(preset: str, busy: list[int]) -> None:
    net = network(busy)
    plain = ghostify.convert(net, mode="g-ghost", input_size=SIZE, preset=preset)
    made = warm(net, preset=preset)
    assert stage_of(made).chosen()[:4].tolist() == busy
    assert gap(made, net) < 1e-4 < 0.05 * gap(plain, net)


@given(busy=st.sampled_from(list(itertools.combinations(range(6), 3))), seed=st.integers(0, 50))
@settings(max_examples=8, deadline=None)
def test_channels_that_change_are_found_wherever_they_are(busy: tuple[int, ...], seed: int) -> None:
    made = warm(network(list(busy), channels=6, seed=seed), preset="cifar")
    assert stage_of(made).chosen()[:3].tolist() == list(busy)


@pytest.mark.parametrize("preset", ["cifar", "resnet", "regnet"])
def test_the_order_goes_along_with_a_saved_network(tmp_path: Path, preset: str) -> None:
    net = network([1, 4, 6, 7])
    made = warm(net, preset=preset)
    assert stage_of(made).order is not None
    ghostify.save(made, tmp_path / "out")
    loaded = ghostify.load(tmp_path / "out", net)
    x = noise(4, *SIZE, seed=9)
    assert torch.equal(made(x), loaded(x))


def test_an_mlp_mix_starts_as_the_linear_one() -> None:
    net = network([1, 4, 6, 7], seed=3)
    gaps = [gap(warm(net, mix=mix), net) for mix in ("fc", "mlp")]
    assert gaps[1] < 1e-3 and gaps[0] < 1e-3


def test_the_original_is_not_changed() -> None:
    net = network([1, 4, 6, 7])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    warm(net)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
