"""Batches of student inputs and teacher targets for fitting one layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.data.spool import Spool
from ghostify.graph.segments import Segment
from ghostify.warmstart.c_ghost.layers import GhostPair, LayerPair
from ghostify.warmstart.fit.sampling import PairedInputs, pick, rows_for


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
        """The same of what is held out."""
        return ((x, target) for _, x, target in self._whole(held_out=True))

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
