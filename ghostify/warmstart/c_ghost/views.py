"""What a layer gets in the converted network, and what it is to make of it, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.data.spool import Spool
from ghostify.distributed import processes
from ghostify.graph.segments import Segment
from ghostify.warmstart.c_ghost.subjects import GhostSubject, Subject
from ghostify.warmstart.fit.statistics import Window, places

AFFORDABLE = 25_000_000_000
"""Multiply-accumulates that the sums of one fit may take: well under a second of one core."""

MOST_ROWS = 262_144


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


def rows_for(cost: int, least: int) -> int:
    """Rows that a fit looks at: enough for its unknowns, few enough for its time.

    Args:
        cost: Multiply-accumulates of one row.
        least: Rows that it needs.
    """
    return max(min(AFFORDABLE // max(cost, 1), MOST_ROWS), least)


class Places:
    """Draws the places of each batch's maps that are looked at, repeatably."""

    def __init__(self, images: Spool, rows: int, seed: int) -> None:
        self.each = max(1, rows // max(len(images) * processes()[1], 1))
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows and columns in the next batch's maps, of shape ``(..., H, W)``."""
        return places(shape[-2], shape[-1], self.each, self.generator)


class Views:
    """What the converted network gives a layer, and what the layer is to make of it, by batches.

    The original runs once: for a second look, what is wanted is kept at the places looked at.
    """

    def __init__(self, feed: Feed, subject: Subject, other: fx.Node | None) -> None:
        self.feed, self.subject, self.other = feed, subject, other
        self.kept: Spool | None = None
        maps, taps = subject.conv.out_channels // subject.groups, 1
        if isinstance(subject, GhostSubject):
            taps = subject.ghost.d**2
        self.rows_of_looks = rows_for(subject.groups * maps**2 * taps, 4096)

    def places(self, rows: int) -> Places:
        """Places for about so many rows of all images together."""
        return Places(self.feed.after, rows, self.feed.seed)

    def first(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs ``(N, C, H, W)``, and all that is wanted, ``(N, n, H', W')``."""
        node, feed = self.subject.node, self.feed
        kept, sampler = Spool(), self.places(self.rows_of_looks)
        inputs = feed.before.batches(feed.batch), feed.after.batches(feed.batch)
        for before, after in zip(*inputs, strict=True):
            if node is None:
                yield from _watched(feed, self.subject, before, after)
                continue
            x, target = self._traced(node, before, after)
            if isinstance(self.subject, GhostSubject):
                kept.append(pick(target, *sampler.draw(target.shape)).flatten(1))
            yield x, target
        self.kept = kept if node is not None else None

    def second(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs, and what is wanted at the places of looks, ``(N, P, n)``."""
        node, feed = self.subject.node, self.feed
        if node is None or self.kept is None:
            sampler = self.places(self.rows_of_looks)
            for x, target in self.first():
                yield x, pick(target, *sampler.draw(target.shape))
            return
        for after, wanted in zip(
            feed.after.batches(feed.batch), self.kept.batches(feed.batch), strict=True
        ):
            x = feed.segment.values(feed.converted, after, (_entry(node),))[_entry(node)]
            yield x.float(), wanted.unflatten(1, (-1, self.subject.conv.out_channels))

    def _traced(self, node: fx.Node, before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
        feed, other, entry = self.feed, self.other, _entry(node)
        path = () if other is None else (other,)
        taught = feed.segment.values(feed.original, before, (node, *path))
        taken = feed.segment.values(feed.converted, after, (entry, *path))
        target = taught[node]
        if other is not None:
            target = target + _unscaled(taught[other] - taken[other], self.subject.norm)
        return taken[entry].float(), target.float()


def _entry(node: fx.Node) -> fx.Node:
    """What a layer's node reads."""
    entry = node.args[0]
    assert isinstance(entry, fx.Node)
    return entry


def by_group(picked: Tensor, groups: int) -> Tensor:
    """``(N, P, C)`` as ``(groups, N * P, C / groups)``."""
    return picked.flatten(0, 1).unflatten(1, (groups, -1)).transpose(0, 1)


def pick(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values at some places, ``(N, P, C)``."""
    values = Window((1, 1)).patches(maps, rows, columns)[..., 0].T
    return values.unflatten(0, (len(maps), -1))


def _watched(
    feed: Feed, subject: Subject, before: Tensor, after: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same for a layer that no node, or more than one, calls: seen from inside the network."""
    with _watch(subject.conv) as taught, _watch(subject.made) as taken:
        feed.segment.run(feed.original, before)
        feed.segment.run(feed.converted, after)
    for (_, target), (x, _) in zip(taught, taken, strict=True):
        yield x.float(), target.float()


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
