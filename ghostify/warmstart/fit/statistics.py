"""Sums over calibration images: all that least squares needs, however many images there are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostify.distributed import sum_over_processes
from ghostify.errors import GhostifyError

ROWS_AT_ONCE = 2048
"""Rows that are multiplied together: one by one, the large sums would be read and written often."""


CACHED = 2**18
"""Numbers that are turned over at once: what the processor's cache holds."""


class NotFiniteError(GhostifyError):
    """What a layer gives, or its sums, are no numbers: it can't be fitted."""


def require_finite(*sums: Tensor) -> None:
    """Raise where some sums hold a value that is not finite."""
    if not all(tensor.isfinite().all() for tensor in sums):
        raise NotFiniteError("What a layer gives holds values that are not finite: normalise them.")


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
        self._gram = torch.zeros(groups, inputs + 1, inputs + 1, dtype=torch.float64)
        self._cross = torch.zeros(groups, inputs + 1, outputs, dtype=torch.float64)
        self._energy = torch.zeros(groups, outputs, dtype=torch.float64)
        self._count = torch.zeros((), dtype=torch.float64)
        self._waiting = _Waiting()

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: ``(groups, rows, inputs)`` regressors, ``(groups, rows, outputs)`` targets."""
        if self._waiting.add(x, y):
            self._flush()

    def _flush(self) -> None:
        for x, y in self._waiting.take():
            self._sum(x, y)

    def _sum(self, x: Tensor, y: Tensor) -> None:
        turned = x.transpose(1, 2)
        total = x.sum(1).cpu()
        self._gram[:, :-1, :-1] += (turned @ x).cpu()
        self._gram[:, -1, :-1] += total
        self._gram[:, :-1, -1] += total
        self._gram[:, -1, -1] += x.shape[1]
        self._cross[:, :-1] += (turned @ y).cpu()
        self._cross[:, -1] += y.sum(1).cpu()
        self._energy += y.square().sum(1).cpu()
        self._count += x.shape[1]

    def share(self) -> None:
        """Add up what all processes have seen, where there are several."""
        self._flush()
        sum_over_processes(self._gram, self._cross, self._energy, self._count)
        require_finite(self._energy, self._gram, self._cross)

    def include(self, other: Moments) -> None:
        """Add the sums of other rows."""
        self._gram += other.gram
        self._cross += other.cross
        self._energy += other.energy
        self._count += other.count

    @property
    def gram(self) -> Tensor:
        """Products of the regressors, ``(groups, inputs + 1, inputs + 1)``."""
        self._flush()
        return self._gram

    @property
    def cross(self) -> Tensor:
        """Products of regressors and targets, ``(groups, inputs + 1, outputs)``."""
        self._flush()
        return self._cross

    @property
    def energy(self) -> Tensor:
        """Sums of squares of the targets, ``(groups, outputs)``."""
        self._flush()
        return self._energy

    @property
    def count(self) -> int:
        """Number of rows."""
        self._flush()
        return int(self._count)

    def variance(self) -> Tensor:
        """Sum of squares of the targets around their means, ``(groups, outputs)``."""
        return self.energy - self.cross[:, -1].square() / max(self.count, 1)

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram matrix and cross products around the means, without the constant."""
        mean = self.gram[:, :-1, -1:] / max(self.count, 1)
        gram = self.gram[:, :-1, :-1].baddbmm(mean, self.gram[:, -1:, :-1], alpha=-1)
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
        self._gram = torch.zeros(groups, maps, taps, taps, dtype=torch.float64)
        self._cross = torch.zeros(groups, taps, maps, maps, dtype=torch.float64)
        self._energy = torch.zeros(groups, maps, dtype=torch.float64)
        self._look = torch.zeros(groups, taps, maps, dtype=torch.float64)
        self._total = torch.zeros(groups, maps, dtype=torch.float64)
        self._count = torch.zeros((), dtype=torch.float64)
        self._waiting = _Waiting()

    def add(self, windows: Tensor, maps: Tensor) -> None:
        """Add rows: windows ``(groups, rows, taps, maps)`` and values ``(groups, rows, maps)``."""
        if self._waiting.add(windows, maps):
            self._flush()

    def _flush(self) -> None:
        for windows, maps in self._waiting.take():
            self._sum(windows, maps)

    def _sum(self, windows: Tensor, maps: Tensor) -> None:
        for some in windows.split(max(1, CACHED // windows[0, 0].numel()), dim=1):
            turned = some.permute(0, 3, 1, 2).contiguous()
            self._gram += (turned.transpose(2, 3) @ turned).cpu()
        products = windows.flatten(2).transpose(1, 2) @ maps
        self._cross += products.view(self._cross.shape).cpu()
        self._energy += maps.square().sum(1).cpu()
        self._look += windows.sum(1).cpu()
        self._total += maps.sum(1).cpu()
        self._count += maps.shape[1]

    def summed(self) -> Sums:
        """The sums of all rows, of all processes, around their means; this object is used up."""
        self._flush()
        parts = (self._gram, self._cross, self._energy, self._look, self._total, self._count)
        sum_over_processes(*parts)
        require_finite(*parts)
        count = self._count.clamp_min(1)
        look, mean = self._look, self._total / count
        around = look.transpose(1, 2)
        self._gram -= around[..., None] * around[:, :, None] / count
        for cross, part, own in zip(self._cross, look, mean, strict=True):
            for tap, seen in enumerate(part):  # one by one: the products are large
                cross[tap].addr_(seen, own, alpha=-1)
        return Sums(
            self._gram,
            self._cross.transpose(1, 2),
            self._energy - self._total * mean,
            around / count,
            mean,
        )


@dataclass(frozen=True)
class Sums:
    """What windows on maps say of the maps of their group.

    Attributes:
        gram: Second moments of each map's window around its mean, ``(groups, maps, taps, taps)``.
        cross: Products of each map's window with all maps, ``(groups, maps, taps, maps)``.
        energy: Energy of each map around its mean, ``(groups, maps)``.
        look: Mean window, ``(groups, maps, taps)``.
        mean: Mean of each map, ``(groups, maps)``.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    look: Tensor
    mean: Tensor


class _Waiting:
    """Rows (dimension 1 of tensors) that wait until there are enough to be summed at once.

    What sums them is not kept here: a cycle would keep the large sums until the next collection.
    """

    def __init__(self) -> None:
        self._batches: list[tuple[Tensor, ...]] = []
        self._count = 0

    def add(self, *tensors: Tensor) -> bool:
        """Whether there are enough now."""
        self._batches.append(tensors)
        self._count += tensors[0].shape[1]
        return self._count >= ROWS_AT_ONCE

    def take(self) -> Iterator[tuple[Tensor, ...]]:
        """All rows at once, if there are any."""
        batches, self._batches, self._count = self._batches, [], 0
        if len(batches) == 1:
            yield batches[0]
        elif batches:
            yield tuple(torch.cat(parts, dim=1) for parts in zip(*batches, strict=True))


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
            ``(C, N * P, kernel)``; the channels lie side by side in memory.
        """
        mode = "constant" if self.mode == "zeros" else self.mode
        x = F.pad(x, self.padding, mode=mode) if any(self.padding) else x
        height, width = (torch.arange(k) for k in self.kernel)
        row = rows[:, None, None] * self.stride[0] + height[:, None] * self.dilation[0]
        column = columns[:, None, None] * self.stride[1] + width * self.dilation[1]
        # Pixels are picked as whole rows of channels: one by one they would be far apart in memory.
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        picked = pixels.index_select(1, (row * x.shape[3] + column).flatten().to(x.device))
        taps = self.kernel[0] * self.kernel[1]
        return picked.view(-1, taps, x.shape[1]).permute(2, 0, 1)


def places(height: int, width: int, most: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Rows and columns of at most ``most`` places of a map, drawn without repetition."""
    if height * width <= most:
        chosen = torch.arange(height * width)
    else:
        chosen = torch.randperm(height * width, generator=generator)[:most]
    return chosen // width, chosen % width
