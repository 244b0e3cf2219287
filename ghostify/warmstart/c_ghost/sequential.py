"""Layer after layer: each fitted on what the converted network gives it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
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
from ghostify.warmstart.c_ghost.layers import GhostPair, LayerPair, PlainPair
from ghostify.warmstart.c_ghost.lessons import Lessons
from ghostify.warmstart.c_ghost.pairing import Pairing, pair
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.held_out import PRIOR
from ghostify.warmstart.fit.neighbours import added_to
from ghostify.warmstart.fit.ridge import ghost_kernels, map_costs
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


@dataclass(frozen=True)
class _Ghosts:
    """Which maps are intrinsic, and the kernels of the ghosts, of each group.

    Attributes:
        pairings: The choice.
        kernels: ``(m, copies, K)`` each.
        left: Energy that they leave of the targets, around their means.
    """

    pairings: list[Pairing]
    kernels: list[Tensor]
    left: float


def _fit_ghosts(batches: LayerBatches, layer: GhostPair) -> LayerFit:
    """Two passes over the images: for all filters, then for what each map says of the others."""
    linear = _fit_filters(batches)
    windows = _window_statistics(batches, layer, linear.filters)
    energy = float(windows.energy.sum())
    judged: dict[int, float] = {}

    def left(ghosts: _Ghosts) -> float:
        _write(layer, linear, ghosts)
        part = judged[id(ghosts)] = unexplained_part(layer, batches)
        is_close = len(judged) == 1 and part * energy <= CLOSE * ghosts.left
        return 0.0 if is_close else part

    pairings = _pair_up(layer, windows)
    attempts = [partial(_with_kernels, pairings, windows, ridge) for ridge in CHEAP_RIDGES]
    inputs, cheap = batches.inputs, layer.ghost.cheap
    assert cheap is not None
    ghosts = inputs.ridges.choose(cheap, attempts, left if count_of_all(inputs.held_out) else None)
    is_dead = energy <= DEAD * windows.level
    if is_dead:  # what its kernels would be fitted to is rounding
        ghosts = replace(ghosts, kernels=[torch.zeros_like(kernel) for kernel in ghosts.kernels])
    _write(layer, linear, ghosts)
    _write_offsets(layer, windows, ghosts)
    if is_dead:
        return LayerFit(layer.name, None, linear.refitted)
    return LayerFit(layer.name, ghosts.left / energy, linear.refitted, judged.get(id(ghosts)))


def _pair_up(layer: GhostPair, windows: WindowStatistics) -> list[Pairing]:
    """Choose the intrinsic maps of each group, and the one that each ghost comes from."""
    pairings = []
    for gram, cross, energy in zip(windows.gram, windows.cross, windows.energy, strict=True):
        costs = map_costs(gram, cross, energy, CHEAP_RIDGE)
        # What an intrinsic map leaves unexplained is not the ghosts' fault.
        costs = (costs - costs.diagonal().clone()).clamp_min(0)
        pairings.append(pair(costs, layer.intrinsic, layer.copies))
    return pairings


def _with_kernels(pairings: list[Pairing], windows: WindowStatistics, ridge: float) -> _Ghosts:
    """Fit the kernel of each ghost by least squares."""
    kernels = [
        ghost_kernels(windows.gram[g], windows.cross[g], p.intrinsic, p.ghosts, ridge)
        for g, p in enumerate(pairings)
    ]
    parts = zip(pairings, kernels, strict=True)
    left = sum(float(_left_by(windows, g, *part)) for g, part in enumerate(parts))
    return _Ghosts(pairings, kernels, left)


def _left_by(windows: WindowStatistics, g: int, pairing: Pairing, kernels: Tensor) -> Tensor:
    """Energy that the intrinsic maps of a group, as they are, and their ghosts leave."""
    i, ghosts = pairing.intrinsic, pairing.ghosts
    gram, cross, energy = windows.gram[g], windows.cross[g], windows.energy[g]
    middle = gram.shape[-1] // 2
    own = energy[i] - 2 * cross[i, middle, i] + gram[i, middle, middle]
    wanted = cross[i[:, None], :, ghosts.clamp_min(0)]
    left = energy[ghosts.clamp_min(0)] + ((kernels @ gram[i] - 2 * wanted) * kernels).sum(-1)
    return own.sum() + (left * (ghosts >= 0)).sum()


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
) -> WindowStatistics:
    """Moments of the windows of each map that the filters make and of all targets."""
    conv = carve(layer.teacher, torch.arange(layer.outputs)).float()
    conv.weight.copy_(weight_of(conv, filters))
    if conv.bias is not None and layer.owns_offsets:
        conv.bias.zero_()
    maps, taps = layer.outputs // layer.groups, prod(layer.sizes)
    windows, own = WindowMoments(layer.groups, maps, taps), Window.same(layer.sizes)
    part = max(1, min(WINDOW_PART, batches.sampled // LEAST_WINDOWS))
    generator = torch.Generator().manual_seed(batches.inputs.seed)
    for look in batches.fitted():
        made = layer.made_by(conv, look.x, look.sizes)
        some = _some_of(look, part, generator)
        seen = own.patches(made, *(place[some] for place in look.places))
        seen = seen.unflatten(0, (layer.groups, -1)).permute(0, 2, 3, 1)
        windows.add(seen, by_group(look.wanted[:, some], layer.groups))
    return windows.summed()


def _some_of(look: LayerBatch, part: int, generator: torch.Generator) -> Tensor:
    """One of so many places that are looked at, drawn repeatably."""
    count = len(look.places[0])
    return torch.randperm(count, generator=generator)[: -(-count // part)]


def _write(layer: GhostPair, linear: _Filters, ghosts: _Ghosts) -> None:
    """Put filters and kernels into the ghost module, in the order of its pairings."""
    layer.arrange(ghosts.pairings)
    primary, cheap = layer.ghost.primary, layer.ghost.cheap
    assert cheap is not None
    maps = layer.outputs // layer.groups
    if linear.refitted:
        chosen = torch.cat([p.intrinsic + g * maps for g, p in enumerate(ghosts.pairings)])
        primary.weight.copy_(weight_of(primary, linear.filters[chosen]))
    cheap.weight.copy_(torch.cat(ghosts.kernels).reshape(cheap.weight.shape).to(cheap.weight))


def _write_offsets(layer: GhostPair, windows: WindowStatistics, ghosts: _Ghosts) -> None:
    """Make the means of all maps right, once the filters are there."""
    if not layer.has_offsets:
        return
    middle = prod(layer.sizes) // 2
    gaps, offsets = [], []
    for g, (pairing, kernel) in enumerate(zip(ghosts.pairings, ghosts.kernels, strict=True)):
        look, mean = windows.look[g, pairing.intrinsic], windows.mean[g]
        gap = mean[pairing.intrinsic] - look[:, middle]
        offset = mean[pairing.ghosts.clamp_min(0)] - torch.einsum("mk,mck->mc", look, kernel)
        if layer.owns_offsets:
            # The cheap operation sees its intrinsic map's bias too (taken as if at the border too).
            offset = offset - gap[:, None] * kernel.sum(2)
        gaps.append(gap)
        offsets.append(offset)
    layer.set_offsets(torch.stack(gaps), torch.stack(offsets), ghosts.pairings)


def _by_group(patches: Tensor, groups: int) -> Tensor:
    """``(C, rows, kernel)`` as regressors, ``(groups, rows, kernel * C / groups)``."""
    return patches.unflatten(0, (groups, -1)).permute(0, 2, 3, 1).flatten(2)
