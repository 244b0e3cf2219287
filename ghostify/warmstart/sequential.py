"""Layer after layer: each ghost module fitted on what the converted network gives it."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.graph.segments import Env, Segment
from ghostify.nn.start import carve
from ghostify.warmstart.fit import choose, explain, solve
from ghostify.warmstart.layers import Subject
from ghostify.warmstart.pairing import Pairing, pair
from ghostify.warmstart.result import LayerFit
from ghostify.warmstart.spool import Spool
from ghostify.warmstart.statistics import Looks, Moments, Window, places

RIDGE = 1e-2
CHEAP_RIDGE = 1e-4
WIDEST = 8192
"""Regressors of a primary convolution beyond which it keeps the original's filters."""

AFFORDABLE = 50_000_000_000
"""Multiply-accumulates that the sums of one fit may take: about a second of one core."""

MOST_ROWS = 262_144

ADDITIONS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Feed:
    """A segment in both networks, and what goes in.

    Attributes:
        segment: The segment.
        original: The original network.
        converted: The converted network.
        before: What the original's segment gets.
        after: What the converted network's segment gets.
        batch: Images at a time.
        seed: For the places that are looked at.
    """

    segment: Segment
    original: nn.Module
    converted: nn.Module
    before: Spool
    after: Spool
    batch: int
    seed: int


@torch.no_grad()
def fit_segment(feed: Feed, subjects: list[Subject]) -> Iterator[LayerFit]:
    """Fit the ghost modules of a segment, one after the other; yields each as it is done.

    A layer that is added to another path is fitted last, towards what is missing of the sum: so the
    errors of the other path are made up for.
    """
    pending = list(subjects)
    while pending:
        waiting = [s for s in pending if _other_path(s, pending[1:]) is _LATER]
        subject = next((s for s in pending if s not in waiting), pending[0])
        pending.remove(subject)
        other = _other_path(subject, pending)
        yield _fit_layer(feed, subject, other if isinstance(other, fx.Node) else None)


_LATER = object()


def _other_path(subject: Subject, pending: list[Subject]) -> Any:
    """What a layer's (normed) output is added to; ``_LATER`` where that is still to be fitted."""
    end = subject.norm_node or subject.node
    users = list(end.users) if end is not None else []
    if len(users) != 1 or users[0].target not in ADDITIONS or len(users[0].args) != 2:
        return None
    other = next((arg for arg in users[0].args if arg is not end), None)
    if not isinstance(other, fx.Node):
        return None
    waiting = {s.node for s in pending if s is not subject}
    return _LATER if waiting & _behind(other) else other


def _behind(node: fx.Node) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    stack = [node]
    while stack:
        current = stack.pop()
        if current not in seen:
            seen.add(current)
            stack.extend(current.all_input_nodes)
    return seen


def _fit_layer(feed: Feed, subject: Subject, other: fx.Node | None) -> LayerFit:
    """Two passes over the images: for all filters, then for what each map says of the others."""
    linear = _fit_filters(feed, subject, other)
    looks = _look(feed, subject, other, linear.weight)
    gram, cross, energy = looks.centre_()
    pairings, kernels, errors = [], [], []
    for g in range(subject.groups):
        costs = explain(gram[g], cross[g], energy[g], CHEAP_RIDGE)
        # What an intrinsic map leaves unexplained is not the ghosts' fault.
        own = costs.diagonal().clone()
        pairing = pair((costs - own).clamp_min(0), subject.intrinsic, subject.copies)
        pairings.append(pairing)
        kernels.append(choose(gram[g], cross[g], pairing, CHEAP_RIDGE))
        errors.append(own.sum() + pairing.cost)
    subject.arrange(pairings)
    _write(subject, linear, looks, pairings, kernels)
    error = torch.stack(errors).sum() / energy.sum().clamp_min(1e-30)
    return LayerFit(subject.name, float(error), linear.refitted)


@dataclass(frozen=True)
class _Filters:
    """The filters of all maps: refitted, or the original's.

    Attributes:
        weight: As the convolution's.
        refitted: Whether they are fitted.
    """

    weight: Tensor
    refitted: bool


def _fit_filters(feed: Feed, subject: Subject, other: fx.Node | None) -> _Filters:
    conv, groups = subject.conv, subject.groups
    inputs = conv.weight[0].numel()
    has_room = subject.has_offsets or conv.bias is None
    if not (subject.linear and inputs <= WIDEST and has_room):
        return _Filters(conv.weight, refitted=False)
    window = Window.of(conv)
    moments = Moments(groups, inputs, conv.out_channels // groups)
    outputs = conv.out_channels // groups
    sampler = _Sampler(feed, _rows(groups * inputs * (inputs + outputs), 4 * inputs))
    for x, target in _pairs(feed, subject, other):
        rows, columns = sampler.draw(target)
        seen = _by_group(window.patches(x, rows, columns), groups)
        moments.add(seen, _at(target, rows, columns, groups))
    prior = conv.weight.detach().double().cpu().flatten(1).unflatten(0, (groups, -1))
    weight = solve(moments, RIDGE, prior, subject.has_offsets).weight
    return _Filters(weight.reshape(conv.weight.shape).to(conv.weight), refitted=True)


def _look(feed: Feed, subject: Subject, other: fx.Node | None, weight: Tensor) -> Looks:
    """What each map that the filters make says of each map that is wanted."""
    conv, groups = subject.conv, subject.groups
    maps = conv.out_channels // groups
    filters = carve(conv, torch.arange(conv.out_channels))
    filters.weight.copy_(weight)
    if filters.bias is not None and subject.owns_offsets:
        filters.bias.zero_()
    looks = Looks(groups, maps, subject.ghost.d**2)
    own = Window.same(subject.ghost.d)
    sampler = _Sampler(feed, _rows(groups * maps * maps * subject.ghost.d**2, 4096))
    for x, target in _pairs(feed, subject, other):
        rows, columns = sampler.draw(target)
        windows = own.patches(filters(x), rows, columns).unflatten(0, (groups, -1))
        looks.add(windows, _at(target, rows, columns, groups))
    return looks


def _write(
    subject: Subject,
    linear: _Filters,
    looks: Looks,
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
        look = looks.look[g, pairing.intrinsic] / max(looks.count, 1)
        mean = looks.total[g] / max(looks.count, 1)
        gap = mean[pairing.intrinsic] - look[:, middle]
        offset = mean[pairing.ghosts.clamp_min(0)] - torch.einsum("mk,mck->mc", look, kernel)
        if subject.owns_offsets:
            # The cheap operation sees its intrinsic map's bias too (taken as if at the border too).
            offset = offset - gap[:, None] * kernel.sum(2)
        gaps.append(gap)
        offsets.append(offset)
    subject.set_offsets(torch.stack(gaps), torch.stack(offsets), pairings)


def _rows(cost: int, least: int) -> int:
    """Rows that a fit looks at: enough for its unknowns, few enough for its time.

    Args:
        cost: Multiply-accumulates of one row.
        least: Rows that it needs.
    """
    return max(min(AFFORDABLE // max(cost, 1), MOST_ROWS), least)


class _Sampler:
    """Draws the places of each batch's maps that are looked at, repeatably."""

    def __init__(self, feed: Feed, rows: int) -> None:
        self.each = max(1, rows // max(len(feed.after), 1))
        self.generator = torch.Generator().manual_seed(feed.seed)

    def draw(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        return places(maps.shape[-2], maps.shape[-1], self.each, self.generator)


def _by_group(patches: Tensor, groups: int) -> Tensor:
    """``(C, rows, kernel)`` as regressors, ``(groups, rows, C / groups * kernel)``."""
    return patches.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)


def _at(maps: Tensor, rows: Tensor, columns: Tensor, groups: int) -> Tensor:
    """Values at some places, ``(groups, N * P, C / groups)``."""
    return (
        maps[:, :, rows, columns]
        .transpose(0, 1)
        .flatten(1)
        .unflatten(0, (groups, -1))
        .transpose(1, 2)
    )


def _pairs(feed: Feed, subject: Subject, other: fx.Node | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Batch by batch: what the converted network gives the layer, and what it is to make of it."""
    inputs = feed.before.batches(feed.batch), feed.after.batches(feed.batch)
    for before, after in zip(*inputs, strict=True):
        with _watch(subject.conv) as taught, _watch(subject.ghost) as taken:
            first, second = _run(feed, feed.original, before), _run(feed, feed.converted, after)
        missing: Tensor | float = 0.0
        if other is not None and first is not None and second is not None:
            missing = _unscaled(first[other] - second[other], subject.norm)
        for (_, target), (x, _) in zip(taught, taken, strict=True):
            yield x.float(), (target + missing).float()


def _run(feed: Feed, network: nn.Module, x: Tensor) -> Env | None:
    if feed.segment.entry is not None:
        return feed.segment.trace(network, x)
    network(x)
    return None


def _unscaled(gap: Tensor, norm: _BatchNorm | None) -> Tensor:
    """What must be added before a norm for ``gap`` to be added after it."""
    if norm is None or norm.running_var is None:
        return gap
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    usable = scale.abs() > 1e-3 * scale.abs().max()
    return gap * torch.where(usable, 1 / scale, 0.0).view(-1, 1, 1)


@contextmanager
def _watch(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What goes into a module, and what comes out, call by call."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, args, out: seen.append((args[0], out.clone())))
    try:
        yield seen
    finally:
        handle.remove()
