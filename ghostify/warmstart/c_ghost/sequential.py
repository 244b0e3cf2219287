"""Layer after layer: each fitted on what the converted network gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from ghostify.graph.segments import Segment
from ghostify.nn.filters import weight_of
from ghostify.nn.start import carve
from ghostify.warmstart.c_ghost.activated import past_activation
from ghostify.warmstart.c_ghost.batches import LayerBatch, LayerBatches, SegmentPair
from ghostify.warmstart.c_ghost.families import DEAD, ROUNDS, FamilyMoments, KernelMoments
from ghostify.warmstart.c_ghost.filters import fit_filters
from ghostify.warmstart.c_ghost.layers import GhostPair, LayerPair, PlainPair
from ghostify.warmstart.c_ghost.lessons import Lessons
from ghostify.warmstart.c_ghost.pairing import Pairing, pair
from ghostify.warmstart.c_ghost.trial import CHEAP_RIDGE, GhostTrial
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.neighbours import added_to
from ghostify.warmstart.fit.ridge import map_costs
from ghostify.warmstart.fit.sampling import Window, by_group
from ghostify.warmstart.fit.statistics import WindowMoments, WindowStatistics
from ghostify.warmstart.fit.targets import Targets
from ghostify.warmstart.result import LayerFit

WINDOW_PART, LEAST_WINDOWS = 4, 2048
"""A kernel has few numbers: for it one place of so many is enough, but no fewer places."""

KEPT, LEAST_KEPT = 2**23, 1024
"""Numbers of the windows that are kept, so that families can be fitted once they are chosen, and
the fewest rows: more of either change nothing that is seen."""


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
                filters = fit_filters(batches)
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
    """Passes over the images: for all filters, then for what each map says of the others."""
    filters = fit_filters(batches)
    windows, looks = _window_statistics(batches, layer, filters.filters)
    pairings = _pair_up(layer, windows)
    layer.arrange(pairings)
    trial = GhostTrial(batches, layer, filters, pairings)
    means = windows.look.flatten(0, 1), windows.mean.flatten()
    moments = FamilyMoments.of(trial.families, looks, means)

    def with_filters(rounds: int) -> KernelMoments:
        given = moments.given(moments.mixes(rounds))
        return past_activation(given, trial.families, looks) if batches.is_hidden else given

    kinds = (ROUNDS, 0) if filters.refitted else (0,)
    fit = trial.best([partial(with_filters, rounds) for rounds in kinds])
    is_dead = float(windows.energy.sum()) <= DEAD * windows.level
    if is_dead:  # what would be fitted is rounding
        fit = moments.given(moments.mixes(0)).with_kernels(torch.zeros_like(fit.kernels))
    trial.finish(fit)
    if is_dead:
        return LayerFit(layer.name, None, filters.refitted)
    return LayerFit(layer.name, fit.left, filters.refitted, trial.judged.get(fit))


def _pair_up(layer: GhostPair, windows: WindowStatistics) -> list[Pairing]:
    """Choose the intrinsic maps of each group, and the one that each ghost comes from."""
    pairings = []
    for gram, cross, energy in zip(windows.gram, windows.cross, windows.energy, strict=True):
        costs = map_costs(gram, cross, energy, CHEAP_RIDGE)
        # What an intrinsic map leaves unexplained is not the ghosts' fault.
        costs = (costs - costs.diagonal().clone()).clamp_min(0)
        pairings.append(pair(costs, layer.intrinsic, layer.copies))
    return pairings


def _window_statistics(
    batches: LayerBatches, layer: GhostPair, filters: Tensor
) -> tuple[WindowStatistics, list[tuple[Tensor, Targets]]]:
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
    kept: list[tuple[Tensor, Targets]] = []
    most = max(KEPT // (layer.outputs * taps), LEAST_KEPT)
    for look in batches.fitted():
        made = layer.made_by(conv, look.x, look.sizes)
        some = _some_of(look, part, generator)
        seen = own.patches(made, *(place[some] for place in look.places))
        targets = look.targets.map(partial(_rows_of_group, some=some, groups=layer.groups))
        windows.add(seen.unflatten(0, (layer.groups, -1)).permute(0, 2, 3, 1), targets.wanted)
        if sum(shown.shape[1] for shown, _ in kept) < most:
            kept.append((seen, targets.map(lambda rows: rows.mT.flatten(0, 1))))
    return windows.summed(), kept


def _some_of(look: LayerBatch, part: int, generator: torch.Generator) -> Tensor:
    """One of so many places that are looked at, drawn repeatably."""
    count = len(look.places[0])
    return torch.randperm(count, generator=generator)[: -(-count // part)]


def _rows_of_group(values: Tensor, some: Tensor, groups: int) -> Tensor:
    """Some places of ``(N, P, n)`` as rows of each group, ``(groups, rows, n / groups)``."""
    return by_group(values[:, some], groups)
