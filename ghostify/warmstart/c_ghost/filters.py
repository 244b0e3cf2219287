"""The filters of all maps of a layer, fitted before the layer's ghosts are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.filters import filters_of
from ghostify.warmstart.c_ghost.batches import LayerBatch, LayerBatches
from ghostify.warmstart.fit.held_out import PRIOR
from ghostify.warmstart.fit.ridge import Solution
from ghostify.warmstart.fit.sampling import Window, by_group
from ghostify.warmstart.fit.statistics import RegressionMoments
from ghostify.warmstart.fit.targets import Targets

RIDGES = (1e-2, 1e-1, 1.0, 10.0, PRIOR)

Chooser = Callable[[Tensor, Targets], Tensor]
"""Gives the targets ``(groups, rows, outputs)`` to fit to, of regressors and of what serves."""


@dataclass(frozen=True)
class Filters:
    """The filters of all maps: refitted, or the original's.

    Attributes:
        filters: One for each map, ``(n, c / groups, *kernel)``.
        offsets: Of each map, ``(n,)``.
        refitted: Whether they are fitted.
    """

    filters: Tensor
    offsets: Tensor
    refitted: bool


def fit_filters(batches: LayerBatches) -> Filters:
    """Fit all filters by ridge regression, with the original's as the prior.

    Where an activation hides some values, they are fitted twice: the second time to those targets
    that are nearest to what the first filters make.
    """
    layer, conv = batches.layer, batches.layer.teacher
    groups, filters = layer.groups, filters_of(conv)
    if not layer.is_refitted:
        return Filters(filters, filters.new_zeros(len(filters)), refitted=False)
    # The windows are (pixel, channel), filters are (channel, pixel).
    shaped = filters.detach().double().cpu().reshape(*filters.shape[:2], -1)
    prior = shaped.transpose(1, 2).flatten(1).unflatten(0, (groups, -1))
    inputs, outputs = filters[0].numel(), len(filters) // groups
    ridges = batches.inputs.ridges

    def solved(fitted: RegressionMoments, held_out: RegressionMoments) -> Solution:
        return ridges.solve(layer.student, fitted, held_out, RIDGES, prior, layer.has_offsets)

    first = [
        RegressionMoments.of(groups, inputs, outputs, _rows(batches, looks, _wanted))
        for looks in (batches.fitted(), batches.held_out())
    ]
    found = solved(*first)
    if batches.is_hidden:
        nearest = _nearest_to(found)
        again = zip(first, (batches.fitted(), batches.held_out()), strict=True)
        found = solved(*(m.retargeted(_rows(batches, looks, nearest)) for m, looks in again))
    weight = found.weight.flatten(0, 1).unflatten(1, (-1, filters.shape[1]))
    weight = weight.transpose(1, 2).reshape(filters.shape).to(filters)
    return Filters(weight, found.intercept.flatten().to(weight), refitted=True)


def _wanted(seen: Tensor, targets: Targets) -> Tensor:
    return targets.wanted


def _nearest_to(found: Solution) -> Chooser:
    def nearest(seen: Tensor, targets: Targets) -> Tensor:
        made = seen @ found.weight.mT.to(seen) + found.intercept.to(seen)[:, None]
        return targets.nearest(made)

    return nearest


def _rows(
    batches: LayerBatches, looks: Iterable[LayerBatch], chooser: Chooser
) -> Iterator[tuple[Tensor, Tensor]]:
    """Regressors ``(groups, rows, inputs)`` and targets ``(groups, rows, outputs)``."""
    groups, conv = batches.layer.groups, batches.layer.teacher
    window = Window.of(conv) if isinstance(conv, _ConvNd) else Window.same((1,))
    for look in looks:
        patches = window.patches(look.x, *look.places)  # ``(C, rows, kernel)``
        seen = patches.unflatten(0, (groups, -1)).permute(0, 2, 3, 1).flatten(2)
        yield seen, chooser(seen, look.targets.map(lambda values: by_group(values, groups)))
