"""Sums over calibration images: all that least squares needs, however many images there are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Moments:
    """Second moments of regressors and targets, added up batch by batch, in double precision.

    The last regressor is the constant 1 (the intercept). ``groups`` independent regressions are
    kept side by side.

    Args:
        groups: Number of regressions.
        inputs: Regressors of each, without the constant.
        outputs: Targets of each.

    Example:
        >>> sums = Moments(1, 2, 1)
        >>> sums.add(torch.tensor([[[1., 0.], [0., 1.], [1., 1.]]]), torch.ones(1, 3, 1))
        >>> sums.gram.shape, sums.count
        (torch.Size([1, 3, 3]), 3)
    """

    def __init__(self, groups: int, inputs: int, outputs: int) -> None:
        self.gram = torch.zeros(groups, inputs + 1, inputs + 1, dtype=torch.float64)
        self.cross = torch.zeros(groups, inputs + 1, outputs, dtype=torch.float64)
        self.energy = torch.zeros(groups, outputs, dtype=torch.float64)
        self.count = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: ``(groups, rows, inputs)`` regressors, ``(groups, rows, outputs)`` targets."""
        x = torch.cat([x, x.new_ones(*x.shape[:2], 1)], dim=2)
        self.gram += (x.transpose(1, 2) @ x).double().cpu()
        self.cross += (x.transpose(1, 2) @ y).double().cpu()
        self.energy += y.double().square().sum(1).cpu()
        self.count += x.shape[1]

    def variance(self) -> Tensor:
        """Sum of squares of the targets around their means, ``(groups, outputs)``."""
        return self.energy - self.cross[:, -1].square() / max(self.count, 1)

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram matrix and cross products around the means, without the constant."""
        mean = self.gram[:, :-1, -1:] / max(self.count, 1)
        gram = self.gram[:, :-1, :-1] - mean @ self.gram[:, -1:, :-1]
        cross = self.cross[:, :-1] - mean @ self.cross[:, -1:]
        return gram, cross


class Looks:
    """Second moments of windows on maps, and their products with all maps of the same group.

    Args:
        groups: Groups of maps.
        maps: Maps of each group.
        taps: Size of a window.
    """

    def __init__(self, groups: int, maps: int, taps: int) -> None:
        self.gram = torch.zeros(groups, maps, taps, taps, dtype=torch.float64)
        self.cross = torch.zeros(groups, maps, taps, maps, dtype=torch.float64)
        self.energy = torch.zeros(groups, maps, dtype=torch.float64)
        self.look = torch.zeros(groups, maps, taps, dtype=torch.float64)
        self.total = torch.zeros(groups, maps, dtype=torch.float64)
        self.count = 0

    def add(self, windows: Tensor, maps: Tensor) -> None:
        """Add rows: windows ``(groups, maps, rows, taps)`` and values ``(groups, rows, maps)``."""
        turned = windows.transpose(2, 3)
        self.gram += (turned @ windows).double().cpu()
        products = turned.flatten(1, 2) @ maps
        self.cross += products.view(self.cross.shape).double().cpu()
        self.energy += maps.double().square().sum(1).cpu()
        self.look += windows.double().sum(2).cpu()
        self.total += maps.double().sum(1).cpu()
        self.count += maps.shape[1]

    def centre_(self) -> tuple[Tensor, Tensor, Tensor]:
        """Gram matrices, products and energies around the means; the sums are used up."""
        count = max(self.count, 1)
        self.gram -= self.look[..., None] * self.look[..., None, :] / count
        self.cross -= self.look[..., None] * self.total[:, None, None] / count
        return self.gram, self.cross, self.energy - self.total.square() / count


@dataclass(frozen=True)
class Window:
    """A sliding window: what a convolution, or the cheap operation, looks at.

    Attributes:
        kernel: Its height and width.
        stride: Its steps.
        dilation: Gaps between what it looks at.
        padding: Left, right, top, bottom.
        mode: How the padding is filled, as in `torch.nn.Conv2d`.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Window:
        """That of a convolution."""
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        return cls(
            (conv.kernel_size[0], conv.kernel_size[1]),
            (conv.stride[0], conv.stride[1]),
            (conv.dilation[0], conv.dilation[1]),
            (left, right, top, bottom),
            conv.padding_mode,
        )

    @classmethod
    def same(cls, d: int) -> Window:
        """That of a d x d cheap operation."""
        return cls((d, d), padding=(d // 2,) * 4)

    def patches(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """What the window sees at some places of its output.

        Args:
            x: ``(N, C, H, W)``.
            rows: Row of each place in the output, ``(P,)``.
            columns: Column of each, ``(P,)``.

        Returns:
            ``(C, N * P, kernel)``.
        """
        mode = "constant" if self.mode == "zeros" else self.mode
        x = F.pad(x, self.padding, mode=mode) if any(self.padding) else x
        looks = []
        for a in range(self.kernel[0]):
            for b in range(self.kernel[1]):
                row = rows * self.stride[0] + a * self.dilation[0]
                column = columns * self.stride[1] + b * self.dilation[1]
                looks.append(x[:, :, row, column])
        return torch.stack(looks, dim=-1).transpose(0, 1).flatten(1, 2)


def places(height: int, width: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and columns of at most ``most`` places of a map, drawn without repetition."""
    if height * width <= most:
        chosen = torch.arange(height * width)
    else:
        chosen = torch.randperm(height * width, generator=generator)[:most]
    return chosen // width, chosen % width
