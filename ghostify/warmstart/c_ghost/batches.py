"""Batches of what a layer gets in the student, and of what the teacher wants of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.data.spool import Spool, common_spans
from ghostify.graph.segments import Segment
from ghostify.graph.trace import LAYERS
from ghostify.warmstart.c_ghost.layers import LayerPair
from ghostify.warmstart.c_ghost.lessons import Lesson, Lessons, Spot, rows_of
from ghostify.warmstart.cold import UnlikeNetworksError
from ghostify.warmstart.fit.neighbours import active_between
from ghostify.warmstart.fit.sampling import PairedInputs, Places, pick, pick_like
from ghostify.warmstart.fit.targets import Targets

LONG = 6
"""Layers that are run again for each layer after them, rather than that their values are kept."""


@dataclass(frozen=True)
class SegmentPair:
    """A segment of both networks, and its inputs.

    Attributes:
        segment: The segment.
        teacher: The original network.
        student: The converted network.
        inputs: Of the segment in both.
    """

    segment: Segment
    teacher: nn.Module
    student: nn.Module
    inputs: PairedInputs

    def ahead(self, layers: Collection[fx.Node | None]) -> SegmentPair:
        """The rest of the segment, from the first of some layers on, where much lies before it.

        What comes before, which must not change any more, is run once for all of them in the
        student; what the teacher makes is known (see `Lessons`).

        Args:
            layers: The nodes that call them; None stands for one that no single node calls.
        """
        nodes = self.segment.nodes
        places = [nodes.index(node) for node in layers if node in nodes]
        if len(places) < len(layers) or not self._is_long(nodes[: min(places)]):
            return self
        rest = self.segment.rest(self.teacher, nodes[min(places)])
        if rest is None:
            return self
        learned = self._values(rest.live)
        if learned is None:
            return self
        return replace(self, segment=rest, inputs=replace(self.inputs, student=learned))

    def _is_long(self, nodes: Iterable[fx.Node]) -> bool:
        called = [self.teacher.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"]
        return sum(isinstance(module, LAYERS) for module in called) >= LONG

    def _values(self, nodes: Sequence[fx.Node]) -> Spool | None:
        """The student's values of some nodes for all samples; None where not one for each."""
        found = Spool()
        for span in common_spans(self.inputs.batch, self.inputs.teacher, self.inputs.student):
            values = self.segment.values(self.student, self.inputs.student.slice(span), nodes)
            tensors, count = [values[node] for node in nodes], span[1] - span[0]
            if not all(isinstance(t, Tensor) and t.ndim and len(t) == count for t in tensors):
                return None
            found.append(tuple(tensors), count)
        return found


@dataclass(frozen=True)
class LayerBatch:
    """What a layer gets of some samples, and what is wanted of it at some places.

    Attributes:
        x: ``(N, c, ...)``, as the converted network gives it.
        targets: What is wanted of it, ``(N, P, n)``.
        places: Where the P places are.
        sizes: Of the layer's output along each dimension, ``(H', W')`` in two of them.
    """

    x: Tensor
    targets: Targets
    places: Places
    sizes: tuple[int, ...]


class LayerBatches:
    """What a layer gets in the student, and what the teacher wants of it.

    Args:
        networks: The segment that the layer is in, or the rest of it.
        layer: The layer.
        other: The node to whose value its (normed) output is added.
        lessons: What the teacher makes in the segment.
    """

    def __init__(
        self, networks: SegmentPair, layer: LayerPair, other: fx.Node | None, lessons: Lessons
    ) -> None:
        self.networks, self.layer, self.other = networks, layer, other
        self.inputs, self.lessons = networks.inputs, lessons
        self._added: Spool | None = None
        self._held_out: list[Spot] = []
        self._kept = Spool()

    @property
    def sampled(self) -> int:
        """How many places of all images are looked at; 0 where these are all, or not known yet."""
        lesson = self.lessons.of(self.layer, held_out=False)
        return 0 if lesson is None else lesson.sampled

    def fitted(self) -> Iterator[LayerBatch]:
        """Of what is fitted to; what is beside the layer runs the first time only."""
        lesson = self.lessons.of(self.layer, held_out=False)
        if lesson is None:
            yield from self._watched(held_out=False)
        elif self._added is not None:
            yield from self._looks(lesson, known=self._added)
        else:
            added = Spool()
            yield from self._looks(lesson, to_keep=added)
            self._added = added

    def held_out(self) -> Iterator[LayerBatch]:
        """Of what is held out; the networks run once for it."""
        if not self._held_out:
            self._keep_held_out()
        for spot in self._held_out:
            x, *targets = self._kept.slice(spot.kept)
            yield LayerBatch(x, Targets(*targets), spot.places, spot.sizes)

    def _keep_held_out(self) -> None:
        lesson = self.lessons.of(self.layer, held_out=True)
        looks = self._watched(held_out=True) if lesson is None else self._looks(lesson)
        for look in looks:
            start, count = len(self._kept), len(look.x)
            is_whole = count != len(look.targets.wanted)
            self._kept.append((look.x, *look.targets.tensors), count, is_whole)
            span = start, start + count
            self._held_out.append(Spot(span, span, look.places, look.sizes))

    def _looks(
        self, lesson: Lesson, *, known: Spool | None = None, to_keep: Spool | None = None
    ) -> Iterator[LayerBatch]:
        """What the layer gets and what is wanted of it: of a sum what is missing of it.

        Args:
            lesson: What the teacher makes.
            known: The student's values of what is added to the layer's output, if they are known.
            to_keep: Gets these values.
        """
        node, networks = self.layer.node, self.networks
        assert node is not None
        entry, other = _entry(node), self._beside(lesson)
        is_run = () if other is None or known is not None else (other,)
        for spot in lesson.spots:
            given = networks.inputs.student.slice(spot.given)
            wanted, added = lesson.targets.slice(spot.kept), None
            found = networks.segment.values(networks.student, given, (entry, *is_run))
            if other is not None and known is not None:
                added = known.slice(spot.kept)
            elif other is not None:
                added = pick_like(found[other], _whole(wanted, spot.sizes), spot.places)
            if added is not None:
                gap = lesson.others.slice(spot.kept) - added
                wanted = wanted + gap * _scale_before(self.layer.norm).to(gap)
                if to_keep is not None:
                    to_keep.append(added, spot.kept[1] - spot.kept[0])
            x, targets = self.layer.maps(found[entry].float()), self._targets(lesson, wanted, added)
            yield LayerBatch(x, targets, spot.places, spot.sizes)

    def _beside(self, lesson: Lesson) -> fx.Node | None:
        """The node that the layer's output is added to, where the teacher's value is known."""
        return self.other if self.other is not None and lesson.other is self.other else None

    def _targets(self, lesson: Lesson, wanted: Tensor, added: Tensor | None) -> Targets:
        """What serves, before the norm.

        Args:
            lesson: What the teacher makes.
            wanted: Of the layer, ``(N, P, n)``.
            added: What the student adds to its (normed) output.
        """
        active = self._active_after(lesson)
        if active is None:
            return Targets(wanted)
        added = wanted.new_zeros(()) if added is None else added
        return Targets.within(wanted, *_active_before(self.layer.norm, active, added))

    def _active_after(self, lesson: Lesson) -> tuple[float, float] | None:
        """Where the activation after the layer, its norm and a sum is not constant."""
        layer = self.layer
        node = layer.norm_node or layer.node
        if node is None or not layer.has_offsets:
            return None
        read = node if self._beside(lesson) is None else next(iter(node.users))
        return active_between(read, self.networks.teacher)

    @property
    def is_hidden(self) -> bool:
        """Whether an activation after the layer makes some of its values the same constant."""
        lesson = self.lessons.of(self.layer, held_out=False)
        return lesson is not None and self._active_after(lesson) is not None

    def _watched(self, held_out: bool) -> Iterator[LayerBatch]:
        """By hooks, of a layer that no node calls, or more than one."""
        networks, sampler = self.networks, self.inputs.sampler(rows_of(self.layer))
        for before, after in self.inputs.batches(held_out):
            with _watch(self.layer.teacher) as taught, _watch(self.layer.student) as learned:
                networks.segment.run(networks.teacher, before)
                networks.segment.run(networks.student, after)
            if [len(out) for _, out in taught] != [len(out) for _, out in learned]:
                raise UnlikeNetworksError(
                    "they get other samples in the converted network than in the original"
                )
            for (_, target), (x, _) in zip(taught, learned, strict=True):
                wanted, given = self.layer.maps(target.float()), self.layer.maps(x.float())
                places = sampler.sample(wanted.shape)
                yield LayerBatch(
                    given, Targets(pick(wanted, *places)), places, tuple(wanted.shape[2:])
                )


def _whole(wanted: Tensor, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of the maps that were looked at."""
    return len(wanted), wanted.shape[2], *sizes


def _entry(node: fx.Node) -> fx.Node:
    """The node that a layer's node reads."""
    entry = node.args[0]
    assert isinstance(entry, fx.Node)
    return entry


def _scale_before(norm: _BatchNorm | None) -> Tensor:
    """By what a gap after a norm is to be multiplied for the gap before it, ``(n,)``."""
    if norm is None or norm.running_var is None:
        return torch.ones(1)
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    usable = scale.abs() > 1e-3 * scale.abs().max()
    return torch.where(usable, 1 / scale, 0.0)


def _active_before(
    norm: _BatchNorm | None, active: tuple[float, float], added: Tensor
) -> tuple[Tensor, Tensor]:
    """Bounds of a layer's output between which an activation after it is not constant.

    Args:
        norm: After the layer.
        active: The same bounds of the activation's input; they may be infinite.
        added: To the (normed) output, before the activation, ``(N, P, n)`` or 0.
    """
    ends = [bound - added for bound in active]
    if norm is None or norm.running_mean is None:
        return ends[0], ends[1]
    scale, mean = (part.to(added) for part in (_scale_before(norm), norm.running_mean))
    bias = 0.0 if norm.bias is None else norm.bias.to(added)
    low, high = ((end - bias) * scale + mean for end in ends)
    low, high = torch.minimum(low, high), torch.maximum(low, high)
    # A channel that the norm makes constant has none.
    return low.where(scale != 0, -math.inf), high.where(scale != 0, math.inf)


@contextmanager
def _watch(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record the input and output of a module, call by call."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, args, out: seen.append((args[0], out.clone())))
    try:
        yield seen
    finally:
        handle.remove()
