"""Layer after layer: each fitted on what the converted network gives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn.modules.conv import _ConvNd

from ghostify.distributed import count_of_all, sum_over_processes
from ghostify.graph.segments import Segment
from ghostify.nn.filters import filters_of, weight_of
from ghostify.nn.start import carve
from ghostify.warmstart.c_ghost.batches import LayerBatch, LayerBatches, SegmentPair
from ghostify.warmstart.c_ghost.families import ROUNDS, Families, FamilyFit, FamilyMoments
from ghostify.warmstart.c_ghost.layers import GhostPair, LayerPair, PlainPair
from ghostify.warmstart.c_ghost.lessons import Lessons
from ghostify.warmstart.c_ghost.pairing import Pairing, pair
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.held_out import PRIOR
from ghostify.warmstart.fit.neighbours import added_to
from ghostify.warmstart.fit.ridge import map_costs
from ghostify.warmstart.fit.sampling import Window, by_group, pick
from ghostify.warmstart.fit.statistics import (
    RegressionMoments,
    WindowMoments,
    WindowStatistics,
    require_finite,
)
from ghostify.warmstart.result import LayerFit

RIDGES = (1e-2, 1e-1, 1.0, 10.0, PRIOR)
CHEAP_RIDGE = 1e-4
CHEAP_RIDGES = (CHEAP_RIDGE, 1e-2, 1.0)
DEAD = 1e-6
"""Part of the maps' energy below which what varies in them is rounding: they are constant."""

WINDOW_PART, LEAST_WINDOWS = 4, 2048
"""A kernel has few numbers: for it one place of so many is enough, but no fewer places."""

KEPT = 2**25
"""Numbers of the windows that are kept, so that families can be fitted once they are chosen."""

CLOSE = 1.1
"""Held-out samples may be so much worse explained than the others: a ridge would not help."""


@torch.no_grad()
def fit_segment(
    networks: SegmentPair, layers: Sequence[LayerPair], lessons: Lessons, cold: ColdStart
) -> Iterator[LayerFit]:
    """Fit the layers of a segment, one after the other; yields each ghost module as it is done.

    A layer that is added to another path is fitted last, towards what is missing of the sum: so the
    errors of the other path are made up for. A layer whose sums are no numbers starts cold.
    """
    pending = list(layers)
    while pending:
        waiting = [s for s in pending if _other_path(networks.segment, s, pending[1:]) is _LATER]
        layer = next((s for s in pending if s not in waiting), pending[0])
        networks = networks.ahead([s.node for s in pending])
        pending.remove(layer)
        other = _other_path(networks.segment, layer, pending)
        batches = LayerBatches(
            networks, layer, other if isinstance(other, fx.Node) else None, lessons
        )
        fit = None
        with cold.instead(layer.name):
            if isinstance(layer, GhostPair):
                fit = _fit_ghosts(batches, layer)
            elif isinstance(layer, PlainPair) and lessons.of(layer, held_out=False):
                filters = _fit_filters(batches)
                layer.take(weight_of(layer.teacher, filters.filters), filters.offsets)
        if fit is not None:
            yield fit


_LATER = object()


def _other_path(segment: Segment, layer: LayerPair, pending: list[LayerPair]) -> Any:
    """What a layer's (normed) output is added to; ``_LATER`` where that is still to be fitted."""
    other = added_to(layer.norm_node or layer.node)
    if other is None:
        return None
    waiting = {s.node for s in pending if s is not layer}
    return _LATER if waiting & segment.behind([other]) else other


def _fit_ghosts(batches: LayerBatches, layer: GhostPair) -> LayerFit:
    """Two passes over the images: for all filters, then for what each map says of the others."""
    linear = _fit_filters(batches)
    windows, looks = _window_statistics(batches, layer, linear.filters)
    judged: dict[int, float] = {}

    def left(fit: FamilyFit) -> float:
        _write(layer, linear, families, fit)
        part = judged[id(fit)] = unexplained_part(layer, batches)
        return 0.0 if len(judged) == 1 and part <= CLOSE * fit.left else part

    pairings = _pair_up(layer, windows)
    layer.arrange(pairings)
    families = Families.of(pairings, layer.outputs // layer.groups)
    means = windows.look.flatten(0, 1), windows.mean.flatten()
    moments = FamilyMoments.of(families, looks, means)
    mixes = moments.mixes(ROUNDS if linear.refitted else 0)
    attempts = [partial(moments.fitted, mixes, ridge) for ridge in CHEAP_RIDGES]
    inputs, cheap = batches.inputs, layer.ghost.cheap
    assert cheap is not None
    fit = inputs.ridges.choose(cheap, attempts, left if count_of_all(inputs.held_out) else None)
    is_dead = float(windows.energy.sum()) <= DEAD * windows.level
    if is_dead:  # what would be fitted is rounding
        fit = FamilyFit(moments.mixes(0), torch.zeros_like(fit.kernels), 1.0)
    _write(layer, linear, families, fit)
    _write_offsets(layer, families, fit, means, pairings)
    if is_dead:
        return LayerFit(layer.name, None, linear.refitted)
    return LayerFit(layer.name, fit.left, linear.refitted, judged.get(id(fit)))


def _pair_up(layer: GhostPair, windows: WindowStatistics) -> list[Pairing]:
    """Choose the intrinsic maps of each group, and the one that each ghost comes from."""
    pairings = []
    for gram, cross, energy in zip(windows.gram, windows.cross, windows.energy, strict=True):
        costs = map_costs(gram, cross, energy, CHEAP_RIDGE)
        # What an intrinsic map leaves unexplained is not the ghosts' fault.
        costs = (costs - costs.diagonal().clone()).clamp_min(0)
        pairings.append(pair(costs, layer.intrinsic, layer.copies))
    return pairings


def unexplained_part(layer: GhostPair, batches: LayerBatches) -> float:
    """What a ghost module leaves unexplained of held-out samples, as a part of the variance."""
    shape = (4, layer.outputs)
    sums, rows = torch.zeros(shape, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for look in batches.held_out():
        made = layer.made_by(layer.ghost, look.x, look.sizes)
        gap = look.wanted - pick(made.float(), *look.places)
        parts = (gap, gap.square(), look.wanted, look.wanted.square())
        sums += torch.stack([part.double().sum((0, 1)) for part in parts]).cpu()
        rows += gap.numel() // gap.shape[2]
    sum_over_processes(sums, rows)
    require_finite(sums)
    gaps, energy, means, level = sums
    varies = (level - means.square() / rows.clamp_min(1)).sum().clamp_min(1e-30)
    return float((energy - gaps.square() / rows.clamp_min(1)).sum().clamp_min(0) / varies)


@dataclass(frozen=True)
class _Filters:
    """The filters of all maps: refitted, or the original's.

    Attributes:
        filters: One for each map, ``(n, c / groups, *kernel)``.
        offsets: Of each map, ``(n,)``.
        refitted: Whether they are fitted.
    """

    filters: Tensor
    offsets: Tensor
    refitted: bool


def _fit_filters(batches: LayerBatches) -> _Filters:
    layer, conv = batches.layer, batches.layer.teacher
    groups, filters = layer.groups, filters_of(conv)
    if not layer.is_refitted:
        return _Filters(filters, filters.new_zeros(len(filters)), refitted=False)
    window = Window.of(conv) if isinstance(conv, _ConvNd) else Window.same((1,))

    def rows(looks: Iterable[LayerBatch]) -> Iterator[tuple[Tensor, Tensor]]:
        for look in looks:
            seen = _by_group(window.patches(look.x, *look.places), groups)
            yield seen, by_group(look.wanted, groups)

    fitted, held_out = (
        RegressionMoments.of(groups, filters[0].numel(), len(filters) // groups, rows(looks))
        for looks in (batches.fitted(), batches.held_out())
    )
    # The windows are (pixel, channel), filters are (channel, pixel).
    shaped = filters.detach().double().cpu().reshape(*filters.shape[:2], -1)
    prior = shaped.transpose(1, 2).flatten(1).unflatten(0, (groups, -1))
    ridges = batches.inputs.ridges
    found = ridges.solve(layer.student, fitted, held_out, RIDGES, prior, layer.has_offsets)
    weight = found.weight.flatten(0, 1).unflatten(1, (-1, filters.shape[1]))
    weight = weight.transpose(1, 2).reshape(filters.shape).to(filters)
    offsets = found.intercept.flatten().to(weight)
    return _Filters(weight, offsets, refitted=True)


def _window_statistics(
    batches: LayerBatches, layer: GhostPair, filters: Tensor
) -> tuple[WindowStatistics, list[tuple[Tensor, Tensor]]]:
    """Moments of the windows of each map that the filters make and of all targets.

    Returns:
        The moments, and as many as may be kept of the windows ``(maps, rows, taps)`` with their
        targets ``(maps, rows)``.
    """
    conv = carve(layer.teacher, torch.arange(layer.outputs)).float()
    conv.weight.copy_(weight_of(conv, filters))
    if conv.bias is not None and layer.owns_offsets:
        conv.bias.zero_()
    maps, taps = layer.outputs // layer.groups, prod(layer.sizes)
    windows, own = WindowMoments(layer.groups, maps, taps), Window.same(layer.sizes)
    part = max(1, min(WINDOW_PART, batches.sampled // LEAST_WINDOWS))
    generator = torch.Generator().manual_seed(batches.inputs.seed)
    kept: list[tuple[Tensor, Tensor]] = []
    for look in batches.fitted():
        made = layer.made_by(conv, look.x, look.sizes)
        some = _some_of(look, part, generator)
        seen = own.patches(made, *(place[some] for place in look.places))
        wanted = by_group(look.wanted[:, some], layer.groups)
        windows.add(seen.unflatten(0, (layer.groups, -1)).permute(0, 2, 3, 1), wanted)
        if sum(x.numel() for x, _ in kept) < KEPT:
            kept.append((seen, wanted.mT.flatten(0, 1)))
    return windows.summed(), kept


def _some_of(look: LayerBatch, part: int, generator: torch.Generator) -> Tensor:
    """One of so many places that are looked at, drawn repeatably."""
    count = len(look.places[0])
    return torch.randperm(count, generator=generator)[: -(-count // part)]


def _write(layer: GhostPair, linear: _Filters, families: Families, fit: FamilyFit) -> None:
    """Put filters and kernels into the ghost module, in the order of its pairings."""
    primary, cheap = layer.ghost.primary, layer.ghost.cheap
    assert cheap is not None
    if linear.refitted:
        own = linear.filters[families.members.to(linear.filters.device)]
        mixed = torch.einsum("ms,ms...->m...", fit.mixes.to(own), own)
        primary.weight.copy_(weight_of(primary, mixed))
    cheap.weight.copy_(fit.kernels.reshape(cheap.weight.shape).to(cheap.weight))


def _write_offsets(
    layer: GhostPair,
    families: Families,
    fit: FamilyFit,
    means: tuple[Tensor, Tensor],
    pairings: list[Pairing],
) -> None:
    """Make the means of all maps right, once the filters are there."""
    if not layer.has_offsets:
        return
    looks, mean = (each[families.members] for each in means)
    look = torch.einsum("ms,mst->mt", fit.mixes, looks)
    gap = mean[:, 0] - look[:, prod(layer.sizes) // 2]
    offsets = mean[:, 1:] - torch.einsum("mk,mck->mc", look, fit.kernels)
    if layer.owns_offsets:
        # The cheap operation sees its intrinsic map's bias too (taken as if at the border too).
        offsets = offsets - gap[:, None] * fit.kernels.sum(2)
    gap, offsets = (each.unflatten(0, (layer.groups, -1)) for each in (gap, offsets))
    layer.set_offsets(gap, offsets, pairings)


def _by_group(patches: Tensor, groups: int) -> Tensor:
    """``(C, rows, kernel)`` as regressors, ``(groups, rows, kernel * C / groups)``."""
    return patches.unflatten(0, (groups, -1)).permute(0, 2, 3, 1).flatten(2)
