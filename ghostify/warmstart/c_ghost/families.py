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
from ghostify.warmstart.fit.targets import Targets

ROUNDS = 12
"""Of filters and kernels in turn; the first few do nearly all."""

DEAD = 1e-6
"""Part of the maps' energy below which what varies in them is rounding: they are constant."""

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

    def own(self, maps: Tensor) -> Tensor:
        """Of each family's maps ``(M, s, ...)`` of ``(maps, ...)``; zero where there is none."""
        found = maps[self.members.flatten().to(maps.device)].unflatten(0, self.members.shape)
        return found * self.exists.view(*self.members.shape, *[1] * (maps.ndim - 1)).to(maps)


@dataclass(frozen=True, eq=False)
class FamilyFit:
    """Fitted filters and cheap kernels of all families.

    Attributes:
        mixes: Coefficients of its maps' filters in each family's filter, ``(M, s)``.
        kernels: Cheap kernels of the ghosts, ``(M, s - 1, taps)``; zero where there is none.
        offsets: To be added to what they make of each map, ``(M, s)``.
        left: Part of the variance that stays unexplained.
    """

    mixes: Tensor
    kernels: Tensor
    offsets: Tensor
    left: float


@dataclass(frozen=True)
class KernelMoments:
    """Moments of windows on the maps that given filters make, and of the families' targets.

    All are around the means.

    Attributes:
        mixes: Coefficients of its maps' filters in each family's filter, ``(M, s)``.
        gram: Products of the windows, ``(M, taps, taps)``.
        cross: Products of the windows with the targets, ``(M, taps, s)``.
        energy: Of the targets, ``(M, s)``.
        look: Mean windows, ``(M, taps)``.
        mean: Mean targets, ``(M, s)``.
        variance: Energy of what the next layer sees of all targets, around its means: of it a part
            is left unexplained. 0 where an activation makes them constant: nothing is.
    """

    mixes: Tensor
    gram: Tensor
    cross: Tensor
    energy: Tensor
    look: Tensor
    mean: Tensor
    variance: float

    def kernels(self, ridge: float) -> Tensor:
        """Cheap kernels by least squares, ``(M, s - 1, taps)``, with a relative ridge."""
        return solve_positive(ridged(self.gram, ridge), self.cross[..., 1:]).mT

    def fitted(self, ridge: float) -> FamilyFit:
        """Fit the cheap kernels with a relative ridge."""
        return self.with_kernels(self.kernels(ridge))

    def with_kernels(self, kernels: Tensor) -> FamilyFit:
        """The fit that has given cheap kernels."""
        whole = with_own(kernels)
        offsets = self.mean - torch.einsum("mt,mjt->mj", self.look, whole)
        met = torch.einsum("mjt,mtj->", whole, self.cross)
        made = torch.einsum("mjt,mtu,mju->", whole, self.gram, whole)
        left = float((self.energy.sum() - 2 * met + made).clamp_min(0))
        part = left / self.variance if self.variance else 0.0
        return FamilyFit(self.mixes, kernels, offsets, part)


@dataclass(frozen=True)
class FamilyMoments:
    """Moments of windows on the maps that a family's own filters make, and of its targets.

    All are around the means, and zero where there is no such map.

    Attributes:
        gram: Products of the windows, ``(M, s, taps, s, taps)``.
        cross: Products of the windows with the targets, ``(M, s, taps, s)``.
        energy: Of the targets, ``(M, s)``.
        look: Mean windows, ``(M, s, taps)``.
        mean: Mean targets, ``(M, s)``.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor
    look: Tensor
    mean: Tensor

    @classmethod
    def of(
        cls,
        families: Families,
        looks: Iterable[tuple[Tensor, Targets]],
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
        for windows, targets in looks:
            seen = families.own(windows - means[0].to(windows).unsqueeze(1))
            wanted = families.own(targets.wanted - means[1].to(windows).unsqueeze(1)).mT
            seen = seen.transpose(1, 2).flatten(2)
            gram += (seen.mT @ seen).cpu()
            cross += (seen.mT @ wanted).cpu()
            energy += wanted.double().square().sum(1).cpu()
        sum_over_processes(gram, cross, energy)
        require_finite(gram, cross, energy)
        gram, cross = gram.view(m, s, taps, s, taps), cross.view(m, s, taps, s)
        return cls(gram, cross, energy, *map(families.own, means))

    def mixes(self, rounds: int = ROUNDS) -> Tensor:
        """Fit each family's filter: coefficients of its maps' filters, ``(M, s)``.

        Coefficients and kernels are solved in turn, each by least squares given the other.

        Args:
            rounds: How often; with 0 each filter is that of its intrinsic map.
        """
        mixes = torch.zeros_like(self.energy)
        mixes[:, 0] = 1
        for _ in range(rounds):
            mixes = self._mixes_for(with_own(self.given(mixes).kernels(FIRM)))
        return mixes

    def given(self, mixes: Tensor) -> KernelMoments:
        """The moments that are left to fit kernels by once the filters are chosen; see `mixes`."""
        gram = torch.einsum("ma,matbu,mb->mtu", mixes, self.gram, mixes)
        cross = torch.einsum("ma,matj->mtj", mixes, self.cross)
        look = torch.einsum("ma,mat->mt", mixes, self.look)
        variance = float(self.energy.sum())
        return KernelMoments(mixes, gram, cross, self.energy, look, self.mean, variance)

    def _mixes_for(self, kernels: Tensor) -> Tensor:
        spread = torch.einsum("mjt,matbu->mjabu", kernels, self.gram)
        gram = torch.einsum("mjabu,mju->mab", spread, kernels)
        wanted = torch.einsum("mjt,matj->ma", kernels, self.cross)
        return solve_positive(ridged(gram, FIRM), wanted[..., None])[..., 0]


def with_own(kernels: Tensor) -> Tensor:
    """Kernels of all maps of each family: the intrinsic one is as the filter makes it."""
    own = torch.zeros_like(kernels[:, :1])
    own[..., own.shape[-1] // 2] = 1
    return torch.cat([own, kernels], 1)
