"""Fits of a ghost module, tried in it and judged on held-out samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ghostify.distributed import count_of_all, sum_over_processes
from ghostify.nn.filters import weight_of
from ghostify.warmstart.c_ghost.batches import LayerBatches
from ghostify.warmstart.c_ghost.families import DEAD, Families, FamilyFit, KernelMoments
from ghostify.warmstart.c_ghost.filters import Filters
from ghostify.warmstart.c_ghost.layers import GhostPair
from ghostify.warmstart.c_ghost.pairing import Pairing
from ghostify.warmstart.fit.sampling import pick
from ghostify.warmstart.fit.statistics import require_finite

CHEAP_RIDGE = 1e-4
CHEAP_RIDGES = (CHEAP_RIDGE, 1e-2, 1.0)

CLOSE = 1.1
"""Held-out samples may be so much worse explained than the others: a ridge would not help."""


class GhostTrial:
    """Tries fits of one ghost module.

    Args:
        batches: What the layer gets, and what is wanted of it.
        layer: The ghost module's.
        filters: Of all maps.
        pairings: The families of each group.
    """

    def __init__(
        self,
        batches: LayerBatches,
        layer: GhostPair,
        filters: Filters,
        pairings: Sequence[Pairing],
    ) -> None:
        self.batches, self.layer, self.filters, self.pairings = batches, layer, filters, pairings
        self.families = Families.of(pairings, layer.outputs // layer.groups)
        self.judged: dict[FamilyFit, float] = {}

    def best(self, attempts: Sequence[Callable[[], KernelMoments]]) -> FamilyFit:
        """The fit that held-out samples choose: first the filters, then the kernels' ridge.

        Args:
            attempts: Make the moments for filters of each kind, those to prefer first.
        """
        ridges, ghost = self.batches.inputs.ridges, self.layer.ghost
        assert ghost.cheap is not None
        is_judged = bool(count_of_all(self.batches.inputs.held_out))

        def fitted(attempt: Callable[[], KernelMoments]) -> tuple[KernelMoments, FamilyFit]:
            moments = attempt()
            return moments, moments.fitted(CHEAP_RIDGE)

        kinds = [partial(fitted, attempt) for attempt in attempts]
        left = (lambda found: self._left(found[1])) if is_judged else None
        moments, first = ridges.choose(ghost.primary, kinds, left)
        others = [partial(moments.fitted, ridge) for ridge in CHEAP_RIDGES[1:]]
        return ridges.choose(
            ghost.cheap, [lambda: first, *others], self._left if is_judged else None
        )

    def _left(self, fit: FamilyFit) -> float:
        """What a fit leaves of held-out samples; 0 where the first does nearly as well there."""
        if fit not in self.judged:
            self.write(fit)
            self.judged[fit] = self._unexplained(fit)
        part, is_first = self.judged[fit], fit is next(iter(self.judged))
        return 0.0 if is_first and part <= CLOSE * fit.left else part

    def _unexplained(self, fit: FamilyFit) -> float:
        """What the module leaves unexplained of held-out samples, as a part of the variance."""
        layer, offsets = self.layer, self._offsets_beside(fit)
        sums = torch.zeros(4, layer.outputs, dtype=torch.float64)
        rows = torch.zeros((), dtype=torch.float64)
        for look in self.batches.held_out():
            made = pick(layer.made_by(layer.ghost, look.x, look.sizes).float(), *look.places)
            made = made + offsets.to(made)
            gap, visible = look.targets.nearest(made) - made, look.targets.visible
            parts = (gap, gap.square(), visible, visible.square())
            sums += torch.stack([part.double().sum((0, 1)) for part in parts]).cpu()
            rows += gap.numel() // gap.shape[2]
        sum_over_processes(sums, rows)
        require_finite(sums)
        gaps, energy, means, level = sums
        varies = (level - means.square() / rows.clamp_min(1)).sum()
        left = (energy - gaps.square() / rows.clamp_min(1)).sum().clamp_min(0)
        return float(left / varies) if varies > DEAD * level.sum() else 0.0

    def _offsets_beside(self, fit: FamilyFit) -> Tensor:
        """Offsets of all maps ``(n,)`` that the module lacks: the norm will have them."""
        offsets = torch.zeros(self.layer.outputs, dtype=torch.float64)
        if self.layer.has_offsets and not self.layer.owns_offsets:
            exists = self.families.exists
            offsets[self.families.members[exists]] = fit.offsets[exists]
        return offsets

    @torch.no_grad()
    def write(self, fit: FamilyFit) -> None:
        """Put filters, kernels and biases into the module, in the order of its pairings."""
        primary, cheap = self.layer.ghost.primary, self.layer.ghost.cheap
        assert cheap is not None
        if self.filters.refitted:
            own = self.filters.filters[self.families.members.to(self.filters.filters.device)]
            mixed = torch.einsum("ms,ms...->m...", fit.mixes.to(own), own)
            primary.weight.copy_(weight_of(primary, mixed))
        cheap.weight.copy_(fit.kernels.reshape(cheap.weight.shape).to(cheap.weight))
        if self.layer.owns_offsets:
            # The cheap operation sees its intrinsic map's bias too (taken as if at the border too).
            seen = fit.offsets[:, :1] * fit.kernels.sum(2)
            self._set_offsets(fit.offsets[:, 0], fit.offsets[:, 1:] - seen)

    def finish(self, fit: FamilyFit) -> None:
        """Write a fit, and the offsets that are not in the module, into the norm after it."""
        self.write(fit)
        if self.layer.has_offsets and not self.layer.owns_offsets:
            self._set_offsets(fit.offsets[:, 0], fit.offsets[:, 1:])

    def _set_offsets(self, intrinsic: Tensor, ghosts: Tensor) -> None:
        groups = self.layer.groups
        intrinsic, ghosts = (part.unflatten(0, (groups, -1)) for part in (intrinsic, ghosts))
        self.layer.set_offsets(intrinsic, ghosts, self.pairings)
