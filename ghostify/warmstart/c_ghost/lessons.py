"""What the original's layers make of a segment: one pass over the images, however many layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostify.data.spool import Span, Spool
from ghostify.graph.execution import own
from ghostify.graph.segments import Segment
from ghostify.nn.filters import filters_of
from ghostify.warmstart.c_ghost.layers import GhostPair, LayerPair
from ghostify.warmstart.fit.neighbours import added_to
from ghostify.warmstart.fit.sampling import (
    MapSampler,
    PairedInputs,
    Places,
    pick,
    pick_like,
    rows_for,
)


@dataclass(frozen=True)
class Spot:
    """Samples of a batch, and where their maps are looked at.

    Attributes:
        given: The samples.
        kept: Where what was seen of them is in a spool.
        places: In the maps.
        sizes: Of the maps along each dimension.
    """

    given: Span
    kept: Span
    places: Places
    sizes: tuple[int, ...]


@dataclass
class Lesson:
    """What the original's layer makes at some places.

    Attributes:
        layer: The layer.
        other: The node whose value may be added to the layer's (normed) output.
        sampler: Chooses the places.
        spots: Where those are, batch by batch.
        targets: The layer's output there, ``(N, P, n)`` for each batch.
        others: The other node's value there.
        is_given: Whether there is one: of a linear layer only where it gets samples whole; of one
            that was left only where it gets one vector of each.
    """

    layer: LayerPair
    other: fx.Node | None
    sampler: MapSampler
    spots: list[Spot] = field(default_factory=list)
    targets: Spool = field(default_factory=Spool)
    others: Spool = field(default_factory=Spool)
    is_given: bool = True
    _shape: tuple[int, ...] = ()
    _rows: int = 0

    @property
    def sampled(self) -> int:
        """How many places of all images are looked at; 0 where these are all places."""
        rows = ((s.kept[1] - s.kept[0]) * len(s.places[0]) for s in self.spots)
        is_sample = any(len(s.places[0]) < prod(s.sizes) for s in self.spots)
        return sum(rows) if is_sample else 0

    def see(self, target: Tensor, span: Span, can_be_cut: bool) -> None:
        """Keep what a batch gives; of large maps some samples are enough, where it can be cut."""
        count = span[1] - span[0]
        is_alone = target.ndim == 2 or isinstance(self.layer, GhostPair)
        if self.layer.is_linear and (not is_alone or target.ndim < 2 or len(target) != count):
            self.is_given = False
            return
        target = self.layer.maps(target)
        self._rows = rows = len(target)  # of what samples have in common more, or fewer
        if can_be_cut and rows == count:
            count, places = self.sampler.some(target.shape)
            rows = count
        else:
            places = self.sampler.sample(target.shape)
        kept = len(self.targets), len(self.targets) + count
        self.targets.append(pick(target[:rows].float(), *places), count)
        spot = Spot((span[0], span[0] + count), kept, places, tuple(target.shape[2:]))
        self.spots.append(spot)
        self._shape = (rows, *target.shape[1:])

    def see_other(self, value: Any) -> None:
        """Keep what the same batch, which has been seen, gives beside the layer."""
        is_alike = isinstance(value, Tensor) and value.ndim == len(self._shape)
        if is_alike and len(value) == self._rows:  # as many of its samples as of the layer's
            value = value[: self._shape[0]]
        if not isinstance(value, Tensor) or not _spreads(value.shape, self._shape):
            self.other = None  # the sum is larger than what the layer gives
            return
        spot = self.spots[-1]
        count = spot.kept[1] - spot.kept[0]
        self.others.append(pick_like(value.float(), self._shape, spot.places), count)


class Lessons:
    """What the original makes in a segment: its layers at sampled places, and its output.

    Args:
        segment: The segment.
        teacher: The original network.
        inputs: Of the segment.
        layers: What is fitted; those that no single node calls have no lesson.
        keeps_output: Whether the output is kept.
    """

    def __init__(
        self,
        segment: Segment,
        teacher: nn.Module,
        inputs: PairedInputs,
        layers: Sequence[LayerPair],
        keeps_output: bool = False,
    ) -> None:
        self.segment, self.teacher, self.inputs = segment, teacher, inputs
        self.keeps_output, self.output = keeps_output, Spool()
        self._lessons: dict[bool, dict[fx.Node, Lesson]] = {}
        for held_out in (False, True):
            lessons = (self._lesson(layer) for layer in layers if layer.is_fitted)
            self._lessons[held_out] = {node: x for x in lessons if (node := x.layer.node)}
            if self._lessons[held_out] or keeps_output:
                can_be_cut = inputs.is_even and not held_out
                for span in inputs.spans(held_out):
                    self._run(span, self._lessons[held_out], can_be_cut)

    def of(self, layer: LayerPair, held_out: bool) -> Lesson | None:
        """That of a layer, where there is one."""
        lesson = None if layer.node is None else self._lessons[held_out].get(layer.node)
        return lesson if lesson is not None and lesson.is_given else None

    def _lesson(self, layer: LayerPair) -> Lesson:
        other = None if layer.is_linear else added_to(layer.norm_node or layer.node)
        return Lesson(layer, other, self.inputs.sampler(rows_of(layer)))

    def _run(self, span: Span, lessons: dict[fx.Node, Lesson], can_be_cut: bool) -> None:
        """Run the teacher on a batch: nothing after the last of what is wanted."""
        given, segment = self.inputs.teacher.slice(span), self.segment
        if segment.entry is None:
            self.output.append(segment.run(self.teacher, given), span[1] - span[0])
            return
        results = set(segment.results() if self.keeps_output else ())
        whole = results | {x.other for x in lessons.values() if x.other is not None}

        def take(node: fx.Node, value: Any) -> Any:
            if node in lessons:
                lessons[node].see(value, span, can_be_cut)
            return own(value) if node in whole else None

        values = segment.values(self.teacher, given, {*lessons, *whole}, take)
        for lesson in lessons.values():
            if lesson.other is not None:
                lesson.see_other(values.get(lesson.other))
        if self.keeps_output:
            self.output.append(segment.output(values), span[1] - span[0])


def _spreads(shape: Sequence[int], target: Sequence[int]) -> bool:
    """Whether what is of one shape is spread over another when both are added."""
    try:
        return tuple(torch.broadcast_shapes(shape, target)) == tuple(target)
    except RuntimeError:
        return False


def rows_of(layer: LayerPair) -> int:
    """Rows that the fit of a layer looks at: for its filters, and for its maps' windows."""
    conv, groups = layer.teacher, layer.groups
    outputs, cost, least = layer.outputs // groups, 0, 4096
    if layer.is_refitted:
        inputs = filters_of(conv)[0].numel()
        cost, least = groups * inputs * (inputs + outputs), max(4 * inputs, least)
    if isinstance(layer, GhostPair):
        cost += groups * outputs**2 * prod(layer.sizes)
    return rows_for(cost, least)
