"""Each kind of convolution is fitted as a slow plain least squares over unfolded maps says."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import ghostify
from ghostify.nn import GhostConv
from ghostify.warmstart.c_ghost.sequential import CHEAP_RIDGE

KINDS: list[tuple[type[_ConvNd], dict[str, Any]]] = [
    (nn.Conv1d, {"kernel_size": 5, "padding": 2}),
    (nn.Conv1d, {"kernel_size": 3, "dilation": 2, "groups": 2}),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
    (nn.Conv3d, {"kernel_size": (3, 2, 1), "padding": (1, 0, 0)}),
    (nn.ConvTranspose1d, {"kernel_size": 4, "stride": 2, "padding": 1}),
    (nn.ConvTranspose2d, {"kernel_size": (3, 4), "stride": (1, 2), "dilation": (2, 1)}),
    (nn.ConvTranspose2d, {"kernel_size": 3, "stride": 2, "groups": 2}),
    (nn.ConvTranspose3d, {"kernel_size": 2, "stride": (2, 1, 1)}),
]
SIDES = (9, 8, 5)


class Net(nn.Module):
    """A convolution of any dimensions over images: as rows of pixels, or as volumes."""

    def __init__(self, conv: _ConvNd) -> None:
        super().__init__()
        self.conv = conv
        self.sides = SIDES[: len(conv.kernel_size)]

    def reshaped(self, x: Tensor) -> Tensor:
        """``(N, C, 1, pixels)`` as what the convolution takes."""
        return x.flatten(2).unflatten(2, self.sides)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.reshaped(x))


def build(kind: type[_ConvNd], given: dict[str, Any]) -> tuple[Net, Tensor]:
    """A network with a convolution of that kind, whose maps are far from white, and images."""
    torch.manual_seed(0)
    net = Net(kind(4, 8, **given)).eval()
    pixels = torch.tensor(net.sides).prod()
    return net, torch.rand(12, 4, 1, int(pixels))


def families(ghost: GhostConv) -> list[tuple[int, int, Tensor, Tensor | float]]:
    """Of each ghost: its output, its parent's output, its kernel and offset."""
    assert ghost.cheap is not None
    groups, n, s = ghost.groups, ghost.out_channels, ghost.s
    m = ghost.primary.out_channels // groups
    order = torch.arange(n) if ghost.order is None else ghost.order
    found = []
    for output, place in enumerate(order.tolist()):
        group, inside = divmod(place, m * s)
        if inside < m:
            continue
        own = (inside - m) // (s - 1)
        parent = order.tolist().index(group * m * s + own)
        row = group * m * (s - 1) + inside - m
        offset = 0.0 if ghost.cheap.bias is None else ghost.cheap.bias[row]
        found.append((output, parent, ghost.cheap.weight[row, 0].flatten(), offset))
    return found


def primary_row(ghost: GhostConv, output: int) -> int:
    """Of an intrinsic map: which of the primary convolution's it is."""
    place = output if ghost.order is None else int(ghost.order[output])
    m = ghost.primary.out_channels // ghost.groups
    group, inside = divmod(place, m * ghost.s)
    return group * m + inside


def unfolded(maps: Tensor, d: int) -> Tensor:
    """Windows of ``(N, *sides)`` with zeros around, shift by shift: ``(rows, taps)``."""
    sides = maps.shape[1:]
    padded = F.pad(maps, [d // 2] * (2 * len(sides)))
    taps = []
    for tap in product(range(d), repeat=len(sides)):
        cut = tuple(slice(t, t + side) for t, side in zip(tap, sides, strict=True))
        taps.append(padded[(slice(None), *cut)].flatten())
    return torch.stack(taps, dim=1)


def least_squares(windows: Tensor, target: Tensor) -> Tensor:
    """The kernel of least error, with the ridge that the warm start has."""
    gram = windows.T @ windows
    ridge = CHEAP_RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    return torch.linalg.solve(gram + ridge, windows.T @ target)


@pytest.mark.parametrize(("kind", "given"), KINDS)
def test_without_data_a_kernel_is_the_best_for_white_inputs(
    kind: type[_ConvNd], given: dict[str, Any]
) -> None:
    net, images = build(kind, given)
    student = ghostify.convert(
        net, s=2, d=3, costlier=True, calibration="data-free", input_size=images.shape[1:]
    )
    # The responses to single pixels hold all that there is of products of maps of white noise.
    frame = torch.zeros(4, 4, *[15] * len(net.sides), dtype=torch.float64)
    for channel in range(4):
        frame[(channel, channel, *[7] * len(net.sides))] = 1
    conv = net.conv.double()
    maps = conv(frame) - (0 if conv.bias is None else conv(torch.zeros_like(frame)))
    found = families(student.conv)
    assert len(found) == 4
    for output, parent, kernel, _ in found:
        best = least_squares(unfolded(maps[:, parent], 3), maps[:, output].flatten())
        torch.testing.assert_close(kernel.double(), best, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "given"), KINDS)
def test_with_data_a_kernel_is_the_best_for_it(kind: type[_ConvNd], given: dict[str, Any]) -> None:
    net, images = build(kind, given)
    student = ghostify.convert(net, s=2, d=3, costlier=True, calibration=images)
    maps = net(images).detach().double()
    bias = student.conv.primary.bias.detach().double()
    found = families(student.conv)
    assert len(found) == 4
    with torch.no_grad():
        made = student.conv.primary(net.reshaped(images)).double()
    for output, parent, kernel, offset in found:
        # The kernel is fitted to what the family's filter makes, without its bias.
        row = primary_row(student.conv, parent)
        windows, target = unfolded(made[:, row] - bias[row], 3), maps[:, output].flatten()
        best = least_squares(windows - windows.mean(0), target - target.mean())
        torch.testing.assert_close(kernel.double(), best, rtol=1e-3, atol=1e-4)
        whole = target.mean() - windows.mean(0) @ best - bias[row] * best.sum()
        assert float(offset) == pytest.approx(float(whole), abs=1e-3)
    error = (student(images) - net(images)).var() / net(images).var()
    cold = ghostify.convert(net, s=2, d=3, costlier=True, input_size=images.shape[1:])
    assert error < (cold(images) - net(images)).var() / net(images).var()


@pytest.mark.parametrize("d", [3, 5])
def test_maps_one_pixel_wide_have_windows_of_one_column(d: int) -> None:
    torch.manual_seed(0)
    column = nn.Sequential(nn.Conv2d(2, 8, (7, 1), padding=(3, 0)), nn.ReLU(), nn.Conv2d(8, 8, 1))
    row = nn.Sequential(nn.Conv1d(2, 8, 7, padding=3), nn.ReLU(), nn.Conv1d(8, 8, 1))
    row.load_state_dict({key: value.squeeze(-1) for key, value in column.state_dict().items()})
    images = torch.rand(8, 2, 40, 1)
    made = {"s": 2, "d": d, "costlier": True}
    fitted = ghostify.convert(column, calibration=images, input_size=(2, 40, 1), **made)
    assert [fitted[place].cheap.kernel_size for place in (0, 2)] == [(d, 1)] * 2
    assert ghostify.plan(column, input_size=(2, 40, 1), **made).replaced[0].d == (d, 1)
    wide = ghostify.convert(column, calibration="data-free", input_size=(2, 40, 1), **made)
    long = ghostify.convert(row, calibration="data-free", input_size=(2, 40), **made)
    torch.testing.assert_close(wide(images)[..., 0], long(images[..., 0]))
