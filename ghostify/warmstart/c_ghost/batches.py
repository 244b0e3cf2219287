"""Batches of student inputs and teacher targets for fitting one layer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.data.spool import Spool, common_spans
from ghostify.graph.segments import Segment
from ghostify.graph.trace import LAYERS
from ghostify.warmstart.c_ghost.layers import GhostPair, LayerPair
from ghostify.warmstart.fit.sampling import PairedInputs, pick, rows_for

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

        What comes before, which must not change any more, is run once for all of them.

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
        taught = self._values(self.teacher, self.inputs.teacher, rest.live)
        learned = self._values(self.student, self.inputs.student, rest.live)
        if taught is None or learned is None:
            return self
        inputs = replace(self.inputs, teacher=taught, student=learned)
        return replace(self, segment=rest, inputs=inputs)

    def _is_long(self, nodes: Iterable[fx.Node]) -> bool:
        called = [self.teacher.get_submodule(str(n.target)) for n in nodes if n.op == "call_module"]
        return sum(isinstance(module, LAYERS) for module in called) >= LONG

    def _values(self, network: nn.Module, given: Spool, nodes: Sequence[fx.Node]) -> Spool | None:
        """The values of some nodes for all samples; None where they are not one for each."""
        found = Spool()
        for span in common_spans(self.inputs.batch, self.inputs.teacher, self.inputs.student):
            values = self.segment.values(network, given.slice(span), nodes)
            tensors, count = [values[node] for node in nodes], span[1] - span[0]
            if not all(isinstance(t, Tensor) and t.ndim and len(t) == count for t in tensors):
                return None
            found.append(tuple(tensors), count)
        return found


class LayerBatches:
    """Batches of what a layer gets in the student, and the target that the teacher sets.

    The teacher runs once: for the second pass its targets are kept at the sampled places.

    Args:
        networks: The segment that the layer is in.
        layer: The layer.
        other: The node to whose value its (normed) output is added.

    Attributes:
        map_sizes: Of the targets of the last batch, ``(H', W')`` in two dimensions.
    """

    def __init__(self, networks: SegmentPair, layer: LayerPair, other: fx.Node | None) -> None:
        self.networks, self.layer, self.other = networks, layer, other
        self.inputs = networks.inputs
        self.kept: Spool | None = None
        self._held_out: Spool | None = None
        self.map_sizes: tuple[int, ...] = ()
        maps, taps = layer.teacher.out_channels // layer.groups, 1
        if isinstance(layer, GhostPair):
            taps = prod(layer.sizes)
        self.window_rows = rows_for(layer.groups * maps**2 * taps, 4096)

    def first(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs ``(N, C, ...)`` and whole targets ``(N, n, ...)``, of what is fitted to."""
        kept, sampler = Spool(), self.inputs.sampler(self.window_rows)
        for count, x, target in self._whole():
            if isinstance(self.layer, GhostPair) and self.layer.node is not None:
                kept.append(pick(target, *sampler.sample(target.shape)).flatten(1), count)
            yield x, target
        self.kept = kept if self.layer.node is not None else None

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The same of what is held out; the networks run once for it."""
        if self._held_out is None:
            kept = Spool()
            for _, x, target in self._whole(held_out=True):
                kept.append((x, target), len(x), whole=len(x) != len(target))
            self._held_out = kept
        for span in self._held_out.spans(self.inputs.batch):
            x, target = self._held_out.slice(span)
            self.map_sizes = tuple(target.shape[2:])
            yield x, target

    def _whole(self, held_out: bool = False) -> Iterator[tuple[int, Tensor, Tensor]]:
        for count, before, after in self.inputs.counted(held_out):
            if self.layer.node is None:
                found = _watched(self.networks, self.layer, before, after)
            else:
                found = iter([self._traced(self.layer.node, before, after)])
            for x, target in found:
                self.map_sizes = tuple(target.shape[2:])
                yield count, x, target

    def second(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs, and the targets at the places where windows are sampled, ``(N, P, n)``."""
        node, networks = self.layer.node, self.networks
        if node is None or self.kept is None:
            sampler = self.inputs.sampler(self.window_rows)
            for x, target in self.first():
                yield x, pick(target, *sampler.sample(target.shape))
            return
        for span in self.inputs.spans():
            after, wanted = self.inputs.student.slice(span), self.kept.slice(span)
            entry = _entry(node)
            x = networks.segment.values(networks.student, after, (entry,))[entry]
            yield x.float(), wanted.unflatten(1, (-1, self.layer.teacher.out_channels))

    def _traced(self, node: fx.Node, before: Any, after: Any) -> tuple[Tensor, Tensor]:
        networks, other, entry = self.networks, self.other, _entry(node)
        path = () if other is None else (other,)
        taught = networks.segment.values(networks.teacher, before, (node, *path))
        learned = networks.segment.values(networks.student, after, (entry, *path))
        target = taught[node]
        if other is not None:
            target = target + _unscaled(taught[other] - learned[other], self.layer.norm)
        return learned[entry].float(), target.float()


def _entry(node: fx.Node) -> fx.Node:
    """The node that a layer's node reads."""
    entry = node.args[0]
    assert isinstance(entry, fx.Node)
    return entry


def _watched(
    networks: SegmentPair, layer: LayerPair, before: Any, after: Any
) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets, by hooks, of a layer that no node calls, or more than one."""
    with _watch(layer.teacher) as taught, _watch(layer.student) as learned:
        networks.segment.run(networks.teacher, before)
        networks.segment.run(networks.student, after)
    for (_, target), (x, _) in zip(taught, learned, strict=True):
        yield x.float(), target.float()


def _unscaled(gap: Tensor, norm: _BatchNorm | None) -> Tensor:
    """Scale ``gap``, to be added after a norm, to what must be added before it."""
    if norm is None or norm.running_var is None:
        return gap
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    usable = scale.abs() > 1e-3 * scale.abs().max()
    return gap * torch.where(usable, 1 / scale, 0.0).view(-1, *[1] * (gap.ndim - 2))


@contextmanager
def _watch(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record the input and output of a module, call by call."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, args, out: seen.append((args[0], out.clone())))
    try:
        yield seen
    finally:
        handle.remove()
