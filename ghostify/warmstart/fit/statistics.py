"""Sums over calibration images: all that least squares needs, however many images there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ghostify.distributed import processes, sum_over_processes
from ghostify.errors import GhostifyError

ROWS_AT_ONCE = 2048
"""Rows that are multiplied together: one by one, the large sums would be read and written often."""


BLOCKS, LEAST_BLOCK = 8, 128
"""So many blocks of columns are multiplied one by one, but of no fewer columns each."""

CACHED = 2**18
"""Numbers that are turned over at once: what the processor's cache holds."""


class NotFiniteError(GhostifyError):
    """Values of a layer, or their sums, are not finite: it can't be fitted."""


def require_finite(*sums: Tensor) -> None:
    """Raise where some sums hold a value that is not finite."""
    if not all(tensor.sum().isfinite() for tensor in sums):
        raise NotFiniteError("What a layer gives holds values that are not finite: normalise them.")


class RegressionMoments:
    """Second moments of regressors and targets, added up batch by batch, in double precision.

    The last regressor is the constant 1 (the intercept). ``groups`` independent regressions are
    kept side by side. As long as there are fewer rows than regressors the rows themselves are kept:
    they are fewer numbers than their products (see `rows`).

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
        self.groups, self.inputs, self.outputs = groups, inputs, outputs
        self._sums: _Sums | None = None
        self._waiting = _Waiting()
        self._rows: tuple[Tensor, Tensor] | None = None
        self._products: dict[bool, Tensor] = {}

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

    def retargeted(self, rows: Iterable[tuple[Tensor, Tensor]]) -> RegressionMoments:
        """The moments of the same regressors with other targets, of all processes.

        Args:
            rows: The regressors again, with their new targets.
        """
        if self.has_few_rows:
            return self.of(self.groups, self.inputs, self.outputs, rows)
        moments = RegressionMoments(self.groups, self.inputs, self.outputs)
        sums = moments._sums = replace(
            self._summed(),
            cross=torch.zeros_like(self.cross),
            energy=torch.zeros_like(self.energy),
        )
        for x, y in rows:
            sums.add_targets(x.float(), y.float())
        sum_over_processes(sums.cross, sums.energy)
        require_finite(sums.cross, sums.energy)
        return moments

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: ``(groups, rows, inputs)`` regressors, ``(groups, rows, outputs)`` targets."""
        self._forget()
        self._waiting.add(x.float(), y.float())  # of networks of any floating-point type
        most = max(ROWS_AT_ONCE, self.inputs) if self._sums is None else ROWS_AT_ONCE
        if self._waiting.count >= most:
            self._summed()

    @property
    def has_few_rows(self) -> bool:
        """Whether there are fewer rows than regressors, and they are not summed yet."""
        return self._sums is None and 0 < self._waiting.count < self.inputs

    def rows(self) -> tuple[Tensor, Tensor] | None:
        """All regressors and targets, where they are few.

        Returns:
            ``(groups, rows, inputs)`` and ``(groups, rows, outputs)``, in double precision.
        """
        if not self.has_few_rows:
            return None
        if self._rows is None:
            x, y = self._waiting.joined()
            self._rows = x.double().cpu(), y.double().cpu()
        return self._rows

    def row_products(self, centred: bool) -> Tensor:
        """Products of the rows with each other, ``(groups, rows, rows)``; see `rows`.

        Args:
            centred: Whether the regressors' means are taken off first.
        """
        if centred not in self._products:
            rows = self.rows()
            assert rows is not None
            x = rows[0] - rows[0].mean(1, keepdim=True) if centred else rows[0]
            self._products[centred] = products(x.transpose(1, 2))
        return self._products[centred]

    def share(self) -> None:
        """Add up what all processes have seen, where there are several."""
        if processes()[1] == 1 and self.has_few_rows:
            require_finite(*self._waiting.joined())
            return
        sums = self._summed()
        sum_over_processes(sums.gram, sums.cross, sums.energy, sums.count)
        require_finite(sums.energy, sums.gram, sums.cross)

    def _summed(self) -> _Sums:
        if self._sums is None:
            self._sums = _Sums.zero(self.groups, self.inputs, self.outputs)
        self._forget()
        for x, y in self._waiting.take():
            self._sums.add(x, y)
        return self._sums

    def _forget(self) -> None:
        """Drop what was worked out from the rows so far."""
        self._rows = None
        self._products.clear()

    @property
    def gram(self) -> Tensor:
        """Products of the regressors, ``(groups, inputs + 1, inputs + 1)``."""
        return self._summed().gram

    @property
    def cross(self) -> Tensor:
        """Products of regressors and targets, ``(groups, inputs + 1, outputs)``."""
        return self._summed().cross

    @property
    def energy(self) -> Tensor:
        """Sums of squares of the targets, ``(groups, outputs)``."""
        rows = self.rows()
        return self._summed().energy if rows is None else rows[1].square().sum(1)

    @property
    def count(self) -> int:
        """Number of rows."""
        return self._waiting.count + (0 if self._sums is None else int(self._sums.count))

    def means(self) -> tuple[Tensor, Tensor]:
        """Of the regressors and of the targets, ``(groups, inputs)`` and ``(groups, outputs)``."""
        rows = self.rows()
        if rows is not None:
            return rows[0].mean(1), rows[1].mean(1)
        count = max(self.count, 1)
        return self.gram[:, :-1, -1] / count, self.cross[:, -1] / count

    def variance(self) -> Tensor:
        """Sum of squares of the targets around their means, ``(groups, outputs)``."""
        return self.energy - self.means()[1].square() * self.count

    def centred(self) -> tuple[Tensor, Tensor]:
        """Gram matrix and cross products around the means, without the constant."""
        mean = self.gram[:, :-1, -1:] / max(self.count, 1)
        gram = self.gram[:, :-1, :-1].baddbmm(mean, self.gram[:, -1:, :-1], alpha=-1)
        cross = self.cross[:, :-1] - mean @ self.cross[:, -1:]
        return gram, cross


@dataclass(frozen=True)
class _Sums:
    """Products of regressors (the last one is 1) and targets, summed over rows."""

    gram: Tensor
    cross: Tensor
    energy: Tensor
    count: Tensor

    @classmethod
    def zero(cls, groups: int, inputs: int, outputs: int) -> _Sums:
        return cls(
            torch.zeros(groups, inputs + 1, inputs + 1, dtype=torch.float64),
            torch.zeros(groups, inputs + 1, outputs, dtype=torch.float64),
            torch.zeros(groups, outputs, dtype=torch.float64),
            torch.zeros((), dtype=torch.float64),
        )

    def add(self, x: Tensor, y: Tensor) -> None:
        total = x.sum(1).cpu()
        self.gram[:, :-1, :-1].add_(products(x).cpu())
        self.gram[:, -1, :-1].add_(total)
        self.gram[:, :-1, -1].add_(total)
        self.gram[:, -1, -1].add_(x.shape[1])
        self.count.add_(x.shape[1])
        self.add_targets(x, y)

    def add_targets(self, x: Tensor, y: Tensor) -> None:
        """Add what depends on the targets."""
        self.cross[:, :-1].add_((x.transpose(1, 2) @ y).cpu())
        self.cross[:, -1].add_(y.sum(1).cpu())
        self.energy.add_(y.square().sum(1).cpu())


def products(x: Tensor) -> Tensor:
    """Products of columns with each other, ``(..., n, n)`` of ``(..., rows, n)``.

    They are the same on both sides of the diagonal: of blocks of columns those on one are enough.

    Example:
        >>> products(torch.tensor([[1., 2.], [0., 3.]]))
        tensor([[ 1.,  2.],
                [ 2., 13.]])
    """
    n, turned = x.shape[-1], x.transpose(-1, -2)
    found = x.new_empty(*x.shape[:-2], n, n)
    width = max(-(-n // BLOCKS), LEAST_BLOCK)
    for start in range(0, n, width):
        end = min(start + width, n)
        block = turned[..., start:end, :] @ x[..., :end]
        found[..., start:end, :end] = block
        found[..., :start, start:end] = block[..., :start].transpose(-1, -2)
    return found


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
        self._waiting.add(windows, maps)
        if self._waiting.count >= ROWS_AT_ONCE:
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
        self.count = 0

    def add(self, *tensors: Tensor) -> None:
        self._batches.append(tensors)
        self.count += tensors[0].shape[1]

    def joined(self) -> tuple[Tensor, ...]:
        """All rows at once; there are some."""
        if len(self._batches) > 1:
            parts = zip(*self._batches, strict=True)
            self._batches = [tuple(torch.cat(part, dim=1) for part in parts)]
        return self._batches[0]

    def take(self) -> Iterator[tuple[Tensor, ...]]:
        """All rows at once, if there are any; they are gone from here then."""
        if self._batches:
            joined = self.joined()
            self._batches, self.count = [], 0
            yield joined
