"""Subclasses of layers: what a run proves of them, and what becomes of those that it does."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostify
from ghostify.passes.carving_proof import is_carvable
from tests.passes.test_conversion import reasons


class Padded(nn.Conv2d):
    """Padding by a module of its own, as efficientnet_pytorch's."""

    def __init__(self, *sizes: int, value: float = 0.0, **given: int) -> None:
        super().__init__(*sizes, **given)
        self.static_padding = nn.ConstantPad2d((0, 1, 0, 1), value)

    def forward(self, x: Tensor) -> Tensor:
        padded = self.static_padding(x)
        return F.conv2d(padded, self.weight, self.bias, self.stride, groups=self.groups)


class Rectified(Padded):
    """Not linear."""

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(super().forward(x))


class Normed(Padded):
    """A norm of as many channels as there are outputs."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.norm = nn.BatchNorm2d(self.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(super().forward(x))


class Mixed(Padded):
    """Each output less the mean of all."""

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y - y.mean(1, keepdim=True)


class Standardised(nn.Conv1d):
    """Each filter less its mean."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2), keepdim=True)
        return F.conv1d(x, weight, self.bias)


class Adapted(nn.Linear):
    """A product of two matrices beside its weight."""

    def __init__(self, *sizes: int) -> None:
        super().__init__(*sizes)
        self.down = nn.Parameter(torch.randn(2, self.in_features))
        self.up = nn.Parameter(torch.randn(self.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x @ (self.up @ self.down).T


@pytest.mark.parametrize(
    ("layer", "fits"),
    [
        (Padded(3, 8, 3), True),
        (Padded(4, 8, 3, groups=2), True),
        (Padded(3, 8, 3, value=2.0), True),
        (Standardised(3, 8, 5), True),
        (Adapted(6, 8), True),
        (nn.ConvTranspose3d(4, 8, 2, stride=2, groups=2), True),
        (Rectified(3, 8, 3), False),
        (Normed(3, 8, 3), False),
        (Mixed(3, 8, 3), False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_run_tells_what_works_with_fewer_outputs(
    layer: nn.Module, fits: bool, device: str
) -> None:
    state = torch.get_rng_state()
    assert is_carvable(copy.deepcopy(layer).to(device)) is fits
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("calibration", [None, "data-free"])
def test_padding_inside_a_layer_stays_where_it_was(calibration: str | None) -> None:
    model = nn.Sequential(Padded(3, 8, 3, value=1.5), nn.ReLU(), Padded(8, 8, 3)).eval()
    converted = ghostify.convert(model, s=2, input_size=(3, 9, 9), calibration=calibration)
    assert [type(ghost.primary) for ghost in (converted[0], converted[2])] == [Padded, Padded]
    x = torch.randn(2, 3, 9, 9)
    assert converted(x).shape == model(x).shape
    ours, theirs = converted[0](x), model[0](x)
    # The intrinsic maps are maps of the original, which ones is the warm start's choice.
    gaps = (ours[:, :, None] - theirs[:, None]).abs().flatten(3).amax((0, 3))
    assert int((gaps.amin(1) < 1e-5).sum()) >= 4


def test_what_is_not_proven_is_left_with_the_reason() -> None:
    model = nn.Sequential(Rectified(3, 8, 3), Normed(8, 8, 3), Padded(8, 8, 3))
    why = "does not work with fewer outputs, or is not linear"
    found = reasons(ghostify.plan(model, input_size=(3, 9, 9)))
    assert found == {"0": f"a Rectified {why}", "1": f"a Normed {why}"}


def test_most_of_an_efficientnet_with_padding_modules_is_converted() -> None:
    package = pytest.importorskip("efficientnet_pytorch")
    network = package.EfficientNet.from_name("efficientnet-b0").eval()
    plan = ghostify.plan(network, s=2, input_size=(3, 224, 224))
    assert len(plan.replaced) == 65
    assert set(reasons(plan).values()) == {"depth-wise: nothing to save"}
