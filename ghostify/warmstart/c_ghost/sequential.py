"""Layer after layer: each fitted on what the converted network gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from ghostify.graph.segments import Segment
from ghostify.nn.filters import filters_of, weight_of
from ghostify.nn.start import carve
from ghostify.warmstart.c_ghost.batches import LayerBatches, SegmentPair
from ghostify.warmstart.c_ghost.layers import GhostPair, LayerPair, PlainPair
from ghostify.warmstart.c_ghost.pairing import Pairing, pair
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.neighbours import ADDITIONS
from ghostify.warmstart.fit.ridge import ghost_kernels, map_costs, solve
from ghostify.warmstart.fit.sampling import WIDEST, Window, by_group, pick, rows_for
from ghostify.warmstart.fit.statistics import (
    RegressionMoments,
    WindowMoments,
    WindowStatistics,
)
from ghostify.warmstart.result import LayerFit

RIDGE = 1e-2
CHEAP_RIDGE = 1e-4


@torch.no_grad()
def fit_segment(
    networks: SegmentPair, layers: Sequence[LayerPair], cold: ColdStart
) -> Iterator[LayerFit]:
    """Fit the layers of a segment, one after the other; yields each ghost module as it is done.

    A layer that is added to another path is fitted last, towards what is missing of the sum: so the
    errors of the other path are made up for. A layer whose sums are no numbers starts cold.
    """
    pending = list(layers)
    while pending:
        waiting = [s for s in pending if _other_path(networks.segment, s, pending[1:]) is _LATER]
        layer = next((s for s in pending if s not in waiting), pending[0])
        pending.remove(layer)
        other = _other_path(networks.segment, layer, pending)
        batches = LayerBatches(networks, layer, other if isinstance(other, fx.Node) else None)
        fit = None
        with cold.instead(layer.name):
            if isinstance(layer, GhostPair):
                fit = _fit_ghosts(batches, layer)
            elif isinstance(layer, PlainPair):
                filters = _fit_filters(batches)
                if filters.refitted:
                    layer.take(weight_of(layer.teacher, filters.filters), filters.offsets)
        if fit is not None:
            yield fit


_LATER = object()


def _other_path(segment: Segment, layer: LayerPair, pending: list[LayerPair]) -> Any:
    """What a layer's (normed) output is added to; ``_LATER`` where that is still to be fitted."""
    end = layer.norm_node or layer.node
    users = list(end.users) if end is not None else []
    if len(users) != 1 or users[0].target not in ADDITIONS or len(users[0].args) != 2:
        return None
    other = next((arg for arg in users[0].args if arg is not end), None)
    if not isinstance(other, fx.Node):
        return None
    waiting = {s.node for s in pending if s is not layer}
    return _LATER if waiting & segment.behind([other]) else other


def _fit_ghosts(batches: LayerBatches, layer: GhostPair) -> LayerFit:
    """Two passes over the images: for all filters, then for what each map says of the others."""
    linear = _fit_filters(batches)
    windows = _window_statistics(batches, layer, linear.filters)
    pairings, kernels, errors = [], [], []
    for g in range(layer.groups):
        costs = map_costs(windows.gram[g], windows.cross[g], windows.energy[g], CHEAP_RIDGE)
        # What an intrinsic map leaves unexplained is not the ghosts' fault.
        own = costs.diagonal().clone()
        pairing = pair((costs - own).clamp_min(0), layer.intrinsic, layer.copies)
        pairings.append(pairing)
        sums, chosen = (windows.gram[g], windows.cross[g]), (pairing.intrinsic, pairing.ghosts)
        kernels.append(ghost_kernels(*sums, *chosen, CHEAP_RIDGE))
        errors.append(own.sum() + pairing.cost)
    layer.arrange(pairings)
    _write(layer, linear, windows, pairings, kernels)
    error = torch.stack(errors).sum() / windows.energy.sum().clamp_min(1e-30)
    return LayerFit(layer.name, float(error), linear.refitted)


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
    inputs = filters[0].numel()
    has_room = layer.has_offsets or conv.bias is None
    if not (layer.linear and inputs <= WIDEST and has_room):
        return _Filters(filters, filters.new_zeros(conv.out_channels), refitted=False)
    window = Window.of(conv)
    outputs = conv.out_channels // groups
    sampler = batches.inputs.sampler(rows_for(groups * inputs * (inputs + outputs), 4 * inputs))

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        for x, target in batches.first():
            places = sampler.sample(target.shape)
            seen = _by_group(window.patches(x, *places), groups)
            yield seen, by_group(pick(target, *places), groups)

    moments = RegressionMoments.of(groups, inputs, outputs, rows())
    # The windows are (pixel, channel), filters are (channel, pixel).
    prior = filters.detach().double().cpu().flatten(2).transpose(1, 2)
    prior = prior.flatten(1).unflatten(0, (groups, -1))
    found = solve(moments, RIDGE, prior, layer.has_offsets)
    fitted = found.weight.flatten(0, 1).unflatten(1, (-1, filters.shape[1])).transpose(1, 2)
    fitted = fitted.reshape(filters.shape).to(filters)
    return _Filters(fitted, found.intercept.flatten().to(fitted), refitted=True)


def _window_statistics(
    batches: LayerBatches, layer: GhostPair, filters: Tensor
) -> WindowStatistics:
    """Moments of the windows of each map that the filters make and of all targets."""
    conv = carve(layer.teacher, torch.arange(layer.teacher.out_channels)).float()
    conv.weight.copy_(weight_of(conv, filters))
    if conv.bias is not None and layer.owns_offsets:
        conv.bias.zero_()
    maps, taps = conv.out_channels // layer.groups, prod(layer.sizes)
    windows, own = WindowMoments(layer.groups, maps, taps), Window.same(layer.sizes)
    sampler = batches.inputs.sampler(batches.window_rows)
    for x, wanted in batches.second():
        # A transposed convolution may have been asked for one of the sizes that it can make.
        made = conv(x, list(batches.map_sizes)) if conv.transposed else conv(x)
        seen = own.patches(made, *sampler.sample(made.shape)).unflatten(0, (layer.groups, -1))
        windows.add(seen.permute(0, 2, 3, 1), by_group(wanted, layer.groups))
    return windows.summed()


def _write(
    layer: GhostPair,
    linear: _Filters,
    windows: WindowStatistics,
    pairings: list[Pairing],
    kernels: list[Tensor],
) -> None:
    """Put filters, kernels and offsets into the ghost module, which has its pairings."""
    primary, cheap = layer.ghost.primary, layer.ghost.cheap
    assert cheap is not None
    maps = layer.teacher.out_channels // layer.groups
    if linear.refitted:
        chosen = torch.cat([p.intrinsic + g * maps for g, p in enumerate(pairings)])
        primary.weight.copy_(weight_of(primary, linear.filters[chosen]))
    cheap.weight.copy_(torch.cat(kernels).reshape(cheap.weight.shape).to(cheap.weight))
    if not layer.has_offsets:
        return
    middle = prod(layer.sizes) // 2
    gaps, offsets = [], []
    for g, (pairing, kernel) in enumerate(zip(pairings, kernels, strict=True)):
        look, mean = windows.look[g, pairing.intrinsic], windows.mean[g]
        gap = mean[pairing.intrinsic] - look[:, middle]
        offset = mean[pairing.ghosts.clamp_min(0)] - torch.einsum("mk,mck->mc", look, kernel)
        if layer.owns_offsets:
            # The cheap operation sees its intrinsic map's bias too (taken as if at the border too).
            offset = offset - gap[:, None] * kernel.sum(2)
        gaps.append(gap)
        offsets.append(offset)
    layer.set_offsets(torch.stack(gaps), torch.stack(offsets), pairings)


def _by_group(patches: Tensor, groups: int) -> Tensor:
    """``(C, rows, kernel)`` as regressors, ``(groups, rows, kernel * C / groups)``."""
    return patches.unflatten(0, (groups, -1)).permute(0, 2, 3, 1).flatten(2)
