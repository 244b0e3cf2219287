"""Sums over calibration images: all that least squares needs, however many images there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ghostify.distributed import sum_over_processes
from ghostify.errors import GhostifyError

ROWS_AT_ONCE = 2048
"""Rows that are multiplied together: one by one, the large sums would be read and written often."""


CACHED = 2**18
"""Numbers that are turned over at once: what the processor's cache holds."""


class NotFiniteError(GhostifyError):
    """Values of a layer, or their sums, are not finite: it can't be fitted."""


def require_finite(*sums: Tensor) -> None:
    """Raise where some sums hold a value that is not finite."""
    if not all(tensor.isfinite().all() for tensor in sums):
        raise NotFiniteError("What a layer gives holds values that are not finite: normalise them.")


class RegressionMoments:
    """Second moments of regressors and targets, added up batch by batch, in double precision.

    The last regressor is the constant 1 (the intercept). ``groups`` independent regressions are
    kept side by side.

    Args:
        groups: Number of regressions.
        inputs: Regressors of each, without the constant.
        outputs: Targets of each.

    Example:
        >>> sums = RegressionMoments(1, 2, 1)
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

    @classmethod
    def of(
        cls, groups: int, inputs: int, outputs: int, rows: Iterable[tuple[Tensor, Tensor]]
    ) -> RegressionMoments:
        """Sum batches of regressors and targets, of all processes."""
        moments = cls(groups, inputs, outputs)
        for x, y in rows:
            moments.add(x, y)
        moments.share()
        return moments

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: ``(groups, rows, inputs)`` regressors, ``(groups, rows, outputs)`` targets."""
        if self._waiting.add(x, y):
            self._flush()

    def _flush(self) -> None:
        for x, y in self._waiting.take():
            self._sum(x, y)

    def _sum(self, x: Tensor, y: Tensor) -> None:
        x, y = x.float(), y.float()  # of networks of any floating-point type
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

    def include(self, other: RegressionMoments) -> None:
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


class WindowMoments:
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

    def summed(self) -> WindowStatistics:
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
        return WindowStatistics(
            self._gram,
            self._cross.transpose(1, 2),
            self._energy - self._total * mean,
            around / count,
            mean,
            float(self._energy.sum()),
        )


@dataclass(frozen=True)
class WindowStatistics:
    """Moments of windows on maps and of the maps of their group, around their means.

    Attributes:
        gram: Second moments of each map's window around its mean, ``(groups, maps, taps, taps)``.
        cross: Products of each map's window with all maps, ``(groups, maps, taps, maps)``.
        energy: Energy of each map around its mean, ``(groups, maps)``.
        look: Mean window, ``(groups, maps, taps)``.
        mean: Mean of each map, ``(groups, maps)``.
        level: Energy of all maps around zero.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    look: Tensor
    mean: Tensor
    level: float


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
