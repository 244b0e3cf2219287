"""Cheap kernels fitted to what an activation lets through of the maps.

With a ReLU after the layer, about half of the values are as good as any negative ones. Least
squares that spends nothing on them leaves less of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ghostify.distributed import sum_over_processes
from ghostify.warmstart.c_ghost.families import DEAD, Families, KernelMoments, with_own
from ghostify.warmstart.c_ghost.trial import CHEAP_RIDGE
from ghostify.warmstart.fit.ridge import ridged, solve_positive
from ghostify.warmstart.fit.statistics import require_finite
from ghostify.warmstart.fit.targets import Targets

ROUNDS = 6
"""Of least squares towards the nearest targets; later ones change next to nothing."""

STEP = 1.7
"""Of one round. Least squares takes all values to be active; where about half are, a step is too
short by about half."""


@dataclass(frozen=True)
class _Rows:
    """What some rows show of all families.

    Attributes:
        windows: On the maps that the filters make, around their means, ``(M, rows, taps)``.
        targets: Of the families' maps, ``(M, s, rows)``.
        exists: Whether there is such a map, ``(M, s, 1)``.
    """

    windows: Tensor
    targets: Targets
    exists: Tensor

    @classmethod
    def of(
        cls, moments: KernelMoments, families: Families, windows: Tensor, targets: Targets
    ) -> _Rows:
        """Of windows ``(maps, rows, taps)`` on each map's own filter, and targets ``(maps, rows)``.

        The windows that the families' filters see are fewer, and made once.
        """
        mixes = moments.mixes.to(windows)
        mixed = torch.einsum("ms,ms...->m...", mixes, families.own(windows))
        around = mixed - moments.look.to(windows).unsqueeze(1)
        exists = families.exists[..., None].to(windows.device)
        return cls(around, targets.map(families.own), exists)

    def gaps(self, kernels: Tensor, mean: Tensor) -> Tensor:
        """From what kernels ``(M, s, taps)`` make, of mean ``(M, s)``, to what serves."""
        made = kernels.to(self.windows) @ self.windows.mT + mean.to(self.windows)[..., None]
        return (self.targets.nearest(made) - made).where(self.exists, 0.0)


def past_activation(
    moments: KernelMoments, families: Families, looks: Sequence[tuple[Tensor, Targets]]
) -> KernelMoments:
    """Moments of the targets that are nearest to what the best kernels make.

    The kernels are fitted in rounds: each time to those of the values that serve which are nearest
    to what the kernels of the round before make.

    Args:
        moments: Of the values that are wanted.
        families: Which maps belong together.
        looks: Windows ``(maps, rows, taps)`` on what each map's own filter makes, and targets
            ``(maps, rows)``.
    """
    rows = [_Rows.of(moments, families, *look) for look in looks]
    kernels, mean = with_own(moments.kernels(CHEAP_RIDGE)), moments.mean
    gram = ridged(moments.gram, CHEAP_RIDGE)
    for _ in range(ROUNDS):
        gaps = _Gaps.of(rows, kernels, mean)
        kernels[:, 1:] += STEP * solve_positive(gram, gaps.cross[..., 1:]).mT
        mean = mean + STEP * gaps.mean
    gaps = _Gaps.of(rows, kernels, mean)
    made = moments.gram @ kernels.mT
    energy = gaps.energy + ((made + 2 * gaps.cross) * kernels.mT).sum(1)
    return replace(
        moments,
        cross=made + gaps.cross,
        energy=energy,
        mean=mean + gaps.mean,
        variance=_variance(rows, moments.mean),
    )


def _variance(rows: Sequence[_Rows], like: Tensor) -> float:
    """Energy of what the activation lets through of all maps around their means, ``(M, s)``.

    0 where that is rounding.
    """
    total, energy = torch.zeros_like(like), torch.zeros_like(like)
    count = torch.zeros((), dtype=torch.float64)
    for some in rows:
        visible = some.targets.visible.where(some.exists, 0.0)
        total += visible.double().sum(2).cpu()
        energy += visible.double().square().sum(2).cpu()
        count += visible.shape[2]
    sum_over_processes(total, energy, count)
    varies = float((energy - total.square() / count.clamp_min(1)).sum())
    return varies if varies > DEAD * float(energy.sum()) else 0.0


@dataclass(frozen=True)
class _Gaps:
    """From what kernels make to the nearest targets, of all processes.

    Attributes:
        cross: Products of windows and gaps, ``(M, taps, s)``.
        mean: Of the gaps, ``(M, s)``.
        energy: Around the mean, ``(M, s)``.
    """

    cross: Tensor
    mean: Tensor
    energy: Tensor

    @classmethod
    def of(cls, rows: Sequence[_Rows], kernels: Tensor, mean: Tensor) -> _Gaps:
        """Of kernels of all maps, ``(M, s, taps)``, and means of what they make, ``(M, s)``."""
        cross, total = torch.zeros_like(kernels.mT), torch.zeros_like(mean)
        energy, count = torch.zeros_like(mean), torch.zeros((), dtype=torch.float64)
        for some in rows:
            gaps = some.gaps(kernels, mean)
            cross += (some.windows.mT @ gaps.mT).cpu()
            total += gaps.sum(2).cpu()
            energy += gaps.square().sum(2).cpu()
            count += gaps.shape[2]
        sum_over_processes(cross, total, energy, count)
        require_finite(cross, total, energy)
        gap = total / count.clamp_min(1)
        return cls(cross, gap, energy - gap * total)
