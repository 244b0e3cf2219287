"""Layer after layer: each fitted on what the converted network gives it."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from ghostify.graph.segments import Segment
from ghostify.nn.start import carve
from ghostify.warmstart.c_ghost.pairing import Pairing, pair
from ghostify.warmstart.c_ghost.subjects import GhostSubject, PlainSubject, Subject
from ghostify.warmstart.c_ghost.views import Feed, Views, by_group, pick, rows_for
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.ridge import choose, explain, solve
from ghostify.warmstart.fit.statistics import Looks, Moments, Sums, Window
from ghostify.warmstart.result import LayerFit

RIDGE = 1e-2
CHEAP_RIDGE = 1e-4
WIDEST = 8192
"""Regressors of a primary convolution beyond which it keeps the original's filters."""

ADDITIONS = (operator.add, operator.iadd, torch.add)


@torch.no_grad()
def fit_segment(feed: Feed, subjects: Sequence[Subject], cold: ColdStart) -> Iterator[LayerFit]:
    """Fit the layers of a segment, one after the other; yields each ghost module as it is done.

    A layer that is added to another path is fitted last, towards what is missing of the sum: so the
    errors of the other path are made up for. A layer whose sums are no numbers starts cold.
    """
    pending = list(subjects)
    while pending:
        waiting = [s for s in pending if _other_path(feed.segment, s, pending[1:]) is _LATER]
        subject = next((s for s in pending if s not in waiting), pending[0])
        pending.remove(subject)
        other = _other_path(feed.segment, subject, pending)
        views = Views(feed, subject, other if isinstance(other, fx.Node) else None)
        fit = None
        with cold.instead(subject.name):
            if isinstance(subject, GhostSubject):
                fit = _fit_ghosts(views, subject)
            elif isinstance(subject, PlainSubject):
                filters = _fit_filters(views)
                if filters.refitted:
                    subject.take(filters.weight, filters.offsets)
        if fit is not None:
            yield fit


_LATER = object()


def _other_path(segment: Segment, subject: Subject, pending: list[Subject]) -> Any:
    """What a layer's (normed) output is added to; ``_LATER`` where that is still to be fitted."""
    end = subject.norm_node or subject.node
    users = list(end.users) if end is not None else []
    if len(users) != 1 or users[0].target not in ADDITIONS or len(users[0].args) != 2:
        return None
    other = next((arg for arg in users[0].args if arg is not end), None)
    if not isinstance(other, fx.Node):
        return None
    waiting = {s.node for s in pending if s is not subject}
    return _LATER if waiting & segment.behind([other]) else other


def _fit_ghosts(views: Views, subject: GhostSubject) -> LayerFit:
    """Two passes over the images: for all filters, then for what each map says of the others."""
    linear = _fit_filters(views)
    looks = _look(views, subject, linear.weight)
    pairings, kernels, errors = [], [], []
    for g in range(subject.groups):
        costs = explain(looks.gram[g], looks.cross[g], looks.energy[g], CHEAP_RIDGE)
        # What an intrinsic map leaves unexplained is not the ghosts' fault.
        own = costs.diagonal().clone()
        pairing = pair((costs - own).clamp_min(0), subject.intrinsic, subject.copies)
        pairings.append(pairing)
        kernels.append(choose(looks.gram[g], looks.cross[g], pairing, CHEAP_RIDGE))
        errors.append(own.sum() + pairing.cost)
    subject.arrange(pairings)
    _write(subject, linear, looks, pairings, kernels)
    error = torch.stack(errors).sum() / looks.energy.sum().clamp_min(1e-30)
    return LayerFit(subject.name, float(error), linear.refitted)


@dataclass(frozen=True)
class _Filters:
    """The filters of all maps: refitted, or the original's.

    Attributes:
        weight: As the convolution's.
        offsets: Of each map, ``(n,)``.
        refitted: Whether they are fitted.
    """

    weight: Tensor
    offsets: Tensor
    refitted: bool


def _fit_filters(views: Views) -> _Filters:
    subject, conv = views.subject, views.subject.conv
    groups, inputs = subject.groups, conv.weight[0].numel()
    has_room = subject.has_offsets or conv.bias is None
    if not (subject.linear and inputs <= WIDEST and has_room):
        return _Filters(conv.weight, conv.weight.new_zeros(conv.out_channels), refitted=False)
    window = Window.of(conv)
    outputs = conv.out_channels // groups
    moments = Moments(groups, inputs, outputs)
    sampler = views.places(rows_for(groups * inputs * (inputs + outputs), 4 * inputs))
    for x, target in views.first():
        rows, columns = sampler.draw(target.shape)
        seen = window.patches(x, rows, columns)
        moments.add(_by_group(seen, groups), by_group(pick(target, rows, columns), groups))
    moments.share()
    # The windows are (pixel, channel), filters are (channel, pixel).
    prior = conv.weight.detach().double().cpu().flatten(2).transpose(1, 2)
    prior = prior.flatten(1).unflatten(0, (groups, -1))
    found = solve(moments, RIDGE, prior, subject.has_offsets)
    weight = found.weight.flatten(0, 1).unflatten(1, (-1, conv.weight.shape[1])).transpose(1, 2)
    weight = weight.reshape(conv.weight.shape).to(conv.weight)
    return _Filters(weight, found.intercept.flatten().to(weight), refitted=True)


def _look(views: Views, subject: GhostSubject, weight: Tensor) -> Sums:
    """What each map that the filters make says of each map that is wanted."""
    conv = subject.conv
    filters = carve(conv, torch.arange(conv.out_channels)).float()
    filters.weight.copy_(weight)
    if filters.bias is not None and subject.owns_offsets:
        filters.bias.zero_()
    looks = Looks(subject.groups, conv.out_channels // subject.groups, subject.ghost.d**2)
    own = Window.same(subject.ghost.d)
    sampler = views.places(views.rows_of_looks)
    for x, wanted in views.second():
        made = filters(x)
        seen = own.patches(made, *sampler.draw(made.shape)).unflatten(0, (subject.groups, -1))
        looks.add(seen.permute(0, 2, 3, 1), by_group(wanted, subject.groups))
    return looks.summed()


def _write(
    subject: GhostSubject,
    linear: _Filters,
    looks: Sums,
    pairings: list[Pairing],
    kernels: list[Tensor],
) -> None:
    """Put filters, kernels and offsets into the ghost module, which has its pairings."""
    primary, cheap = subject.ghost.primary, subject.ghost.cheap
    assert cheap is not None
    maps = subject.conv.out_channels // subject.groups
    if linear.refitted:
        chosen = torch.cat([p.intrinsic + g * maps for g, p in enumerate(pairings)])
        primary.weight.copy_(linear.weight[chosen])
    cheap.weight.copy_(torch.cat(kernels).reshape(cheap.weight.shape).to(cheap.weight))
    if not subject.has_offsets:
        return
    middle = subject.ghost.d**2 // 2
    gaps, offsets = [], []
    for g, (pairing, kernel) in enumerate(zip(pairings, kernels, strict=True)):
        look, mean = looks.look[g, pairing.intrinsic], looks.mean[g]
        gap = mean[pairing.intrinsic] - look[:, middle]
        offset = mean[pairing.ghosts.clamp_min(0)] - torch.einsum("mk,mck->mc", look, kernel)
        if subject.owns_offsets:
            # The cheap operation sees its intrinsic map's bias too (taken as if at the border too).
            offset = offset - gap[:, None] * kernel.sum(2)
        gaps.append(gap)
        offsets.append(offset)
    subject.set_offsets(torch.stack(gaps), torch.stack(offsets), pairings)


def _by_group(patches: Tensor, groups: int) -> Tensor:
    """``(C, rows, kernel)`` as regressors, ``(groups, rows, kernel * C / groups)``."""
    return patches.unflatten(0, (groups, -1)).permute(0, 2, 3, 1).flatten(2)
