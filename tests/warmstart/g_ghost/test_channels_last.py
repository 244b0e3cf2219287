"""The warm start of stages whose maps have the channels last."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify import GGhostStage
from ghostify.settings import Calibration
from ghostify.warmstart import warm_start_

SIZE = (3, 12, 12)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IMAGES = noise(64, *SIZE)


class Mixed(nn.Module):
    """A depth-wise convolution between permutations, then linear layers, on some channels."""

    def __init__(self, width: int, busy: list[int]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        reads, half = torch.zeros(width), torch.ones(width)
        reads[busy] = 1
        half[len(busy) :] = 0
        with torch.no_grad():
            nn.init.normal_(self.up.weight)
            nn.init.normal_(self.down.weight)
            self.up.weight.mul_(reads * half[:, None])
            self.up.bias.mul_(half)
            self.down.weight.mul_(reads[:, None])
            self.down.bias.mul_(reads)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.down(self.up(y).relu())


class Net(nn.Module):
    def __init__(self, busy: list[int], width: int = 8) -> None:
        super().__init__()
        everything = list(range(width))
        kept = [everything, busy, busy, everything]
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.Sequential(*(Mixed(width, channels) for channels in kept))
        self.head = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2)))


def network(busy: list[int]) -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Net(busy).eval()


def stage_of(net: nn.Module) -> GGhostStage:
    return next(m for m in net.modules() if isinstance(m, GGhostStage))


@torch.no_grad()
def gap(made: Any, net: Any) -> float:
    """Relative error of what the stage makes of images not used before."""
    x = noise(32, *SIZE, seed=5)
    one, other = (m.blocks(m.stem(x).permute(0, 2, 3, 1)) for m in (made, net))
    return float((one - other).square().sum() / other.square().sum())


@pytest.mark.parametrize("preset", ["cifar", "resnet"])
@pytest.mark.parametrize("busy", [[1, 4, 6, 7], [0, 2, 3, 5]])
def test_the_channels_that_change_are_chosen_and_the_stage_comes_nearer(
    preset: str, busy: list[int]
) -> None:
    net, options = network(busy), {"mode": "g-ghost", "input_size": SIZE, "preset": preset}
    before = copy.deepcopy(net.state_dict())
    plain = ghostify.convert(net, **options)
    made = ghostify.convert(net, calibration=IMAGES, calibration_samples=64, **options)
    assert stage_of(made).channels_last
    assert stage_of(made).chosen()[:4].tolist() == busy
    assert gap(made, net) < 1e-3 < 0.1 * gap(plain, net)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_the_order_of_the_channels_goes_along_with_a_saved_network(tmp_path) -> None:
    net = network([1, 4, 6, 7])
    made = ghostify.convert(net, mode="g-ghost", input_size=SIZE, calibration=IMAGES)
    assert stage_of(made).order is not None
    ghostify.save(made, tmp_path / "out")
    x = noise(4, *SIZE, seed=9)
    assert torch.equal(ghostify.load(tmp_path / "out", net)(x), made(x))


def test_reconstruction_tunes_a_stage_with_channels_last() -> None:
    net = network([1, 2, 4, 5, 6, 7])
    made = ghostify.convert(net, mode="g-ghost", input_size=SIZE)
    tuned, warm = made, copy.deepcopy(made)
    for steps, student in ((0, warm), (40, tuned)):
        chosen = Calibration(IMAGES, minutes=None, block_steps=steps, network_steps=0)
        warm_start_(student, net, chosen, input_size=SIZE)
    assert gap(tuned, net) < gap(warm, net)
