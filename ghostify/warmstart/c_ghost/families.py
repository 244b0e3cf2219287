"""Joint least-squares fit of primary filters and cheap kernels, by alternating between them.

A family is an intrinsic map and the ghosts made from it. If the filter only reproduces the
intrinsic map, the ghosts' errors are larger than they need be. So each family's filter is the
linear combination of its maps' filters with the least total error: with kernels of one tap, their
first principal component.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from ghostify.distributed import sum_over_processes
from ghostify.warmstart.c_ghost.pairing import Pairing
from ghostify.warmstart.fit.ridge import ridged, solve_positive
from ghostify.warmstart.fit.statistics import require_finite

ROUNDS = 12
"""Of filters and kernels in turn; the first few do nearly all."""

FIRM = 1e-6
"""Relative ridge in these rounds: it makes the systems of maps that are multiples of each other
solvable. A larger one would shrink the kernels, and each round would enlarge the filters for it."""


@dataclass(frozen=True)
class Families:
    """Intrinsic maps with their ghosts: M families of s maps, of all groups.

    Attributes:
        members: Indices of the maps, the intrinsic one first, ``(M, s)``.
        exists: Whether there is such a map, ``(M, s)``: an intrinsic map may have fewer ghosts.
    """

    members: Tensor
    exists: Tensor

    @classmethod
    def of(cls, pairings: Iterable[Pairing], maps: int) -> Families:
        """The families of some groups of so many maps each.

        Example:
            >>> pairing = Pairing(torch.tensor([2, 0]), torch.tensor([[1], [-1]]), 0.0)
            >>> families = Families.of([pairing, pairing], maps=3)
            >>> families.members.tolist()
            [[2, 1], [0, 0], [5, 4], [3, 3]]
            >>> families.exists.tolist()[:2]
            [[True, True], [True, False]]
        """
        found = [torch.cat([p.intrinsic[:, None], p.ghosts], 1) for p in pairings]
        places = [part.clamp_min(0) + g * maps for g, part in enumerate(found)]
        return cls(torch.cat(places), torch.cat(found) >= 0)


@dataclass(frozen=True)
class FamilyFit:
    """Fitted filters and cheap kernels of all families.

    Attributes:
        mixes: Coefficients of its maps' filters in each family's filter, ``(M, s)``.
        kernels: Cheap kernels of the ghosts, ``(M, s - 1, taps)``; zero where there is none.
        left: Part of the targets' energy that stays unexplained.
    """

    mixes: Tensor
    kernels: Tensor
    left: float


@dataclass(frozen=True)
class FamilyMoments:
    """Moments of windows on the maps that a family's own filters make, and of its targets.

    All are around the means, and zero where there is no such map.

    Attributes:
        gram: Products of the windows, ``(M, s, taps, s, taps)``.
        cross: Products of the windows with the targets, ``(M, s, taps, s)``.
        energy: Of the targets, ``(M, s)``.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor

    @classmethod
    def of(
        cls,
        families: Families,
        looks: Iterable[tuple[Tensor, Tensor]],
        means: tuple[Tensor, Tensor],
    ) -> FamilyMoments:
        """Sum over rows, of all processes.

        Args:
            families: Which maps belong together.
            looks: Windows ``(maps, rows, taps)``, and targets ``(maps, rows)``.
            means: Of the windows, ``(maps, taps)``, and of the targets, ``(maps,)``.
        """
        (m, s), taps = families.members.shape, means[0].shape[-1]
        gram = torch.zeros(m, s * taps, s * taps, dtype=torch.float64)
        cross = torch.zeros(m, s * taps, s, dtype=torch.float64)
        energy = torch.zeros(m, s, dtype=torch.float64)

        def own(maps: Tensor, mean: Tensor) -> Tensor:
            """``(M, s, rows, ...)``"""
            gap = maps - mean.to(maps).unsqueeze(1)
            found = gap[families.members.flatten().to(maps.device)].unflatten(0, (m, s))
            return found * families.exists.view(m, s, *[1] * (gap.ndim - 1)).to(maps)

        for windows, targets in looks:
            seen = own(windows, means[0]).transpose(1, 2).flatten(2)
            wanted = own(targets, means[1]).transpose(1, 2)
            gram += (seen.mT @ seen).cpu()
            cross += (seen.mT @ wanted).cpu()
            energy += wanted.double().square().sum(1).cpu()
        sum_over_processes(gram, cross, energy)
        require_finite(gram, cross, energy)
        return cls(gram.view(m, s, taps, s, taps), cross.view(m, s, taps, s), energy)

    def mixes(self, rounds: int = ROUNDS) -> Tensor:
        """Fit each family's filter: coefficients of its maps' filters, ``(M, s)``.

        Coefficients and kernels are solved in turn, each by least squares given the other.

        Args:
            rounds: How often; with 0 each filter is that of its intrinsic map.
        """
        mixes = torch.zeros_like(self.energy)
        mixes[:, 0] = 1
        for _ in range(rounds):
            mixes = self._mixes_for(_with_own(self._kernels_for(mixes, FIRM)))
        return mixes

    def fitted(self, mixes: Tensor, ridge: float) -> FamilyFit:
        """Fit the cheap kernels to given filters.

        Args:
            mixes: Of `mixes`.
            ridge: Relative ridge of the kernels.
        """
        kernels = self._kernels_for(mixes, ridge)
        return FamilyFit(mixes, kernels, self._left(mixes, _with_own(kernels)))

    def _kernels_for(self, mixes: Tensor, ridge: float) -> Tensor:
        gram, cross = self._products(mixes)
        return solve_positive(ridged(gram, ridge), cross[..., 1:]).mT

    def _mixes_for(self, kernels: Tensor) -> Tensor:
        spread = torch.einsum("mjt,matbu->mjabu", kernels, self.gram)
        gram = torch.einsum("mjabu,mju->mab", spread, kernels)
        wanted = torch.einsum("mjt,matj->ma", kernels, self.cross)
        return solve_positive(ridged(gram, FIRM), wanted[..., None])[..., 0]

    def _products(self, mixes: Tensor) -> tuple[Tensor, Tensor]:
        """Products of windows on the maps that the families' filters make, ``(M, taps, ...)``."""
        gram = torch.einsum("ma,matbu,mb->mtu", mixes, self.gram, mixes)
        return gram, torch.einsum("ma,matj->mtj", mixes, self.cross)

    def _left(self, mixes: Tensor, kernels: Tensor) -> float:
        gram, cross = self._products(mixes)
        met = torch.einsum("mjt,mtj->", kernels, cross)
        made = torch.einsum("mjt,mtu,mju->", kernels, gram, kernels)
        energy = self.energy.sum()
        return float((energy - 2 * met + made).clamp_min(0) / energy.clamp_min(1e-30))


def _with_own(kernels: Tensor) -> Tensor:
    """Kernels of all maps of each family: the intrinsic one is as the filter makes it."""
    own = torch.zeros_like(kernels[:, :1])
    own[..., own.shape[-1] // 2] = 1
    return torch.cat([own, kernels], 1)
