"""Blocks: the pieces of a chain that the module hierarchy, or else the order of layers, names.

A chain (see `ghostify.graph.chains`) is cut wherever one tensor alone crosses, which is after each
layer of a plain network. The hierarchy says which of those pieces belong together: what one module
call computes. Where it says nothing, a layer with the norm and activation after it is a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from ghostify.graph.chains import ChainLink, on_the_way
from ghostify.graph.layout import FIRST, channel_dims
from ghostify.graph.trace import LAYERS
from ghostify.nn.filters import dimensions


@dataclass(frozen=True)
class Block:
    """A part of a network that turns one feature map into one feature map.

    Attributes:
        name: Where it is: the module call (the first with a layer, where there are several).
        segments: The chain's segments that it is made of.
        calls: The module calls that it is a plain succession of (``layer1.0``); a call after the
            first of one module ends in ``@1``, ``@2``, ...
        functions: Names of the nodes between those calls that are no part of a module call.
        in_shape: Shape of the tensor that goes in.
        out_shape: Shape of the tensor that comes out.
        layers: How many layers it has.
        channel_dim: The dimension of ``out_shape`` that the channels lie along.
        conv_dims: Dimensions of the maps that its convolutions make; 0 where it has none.
    """

    name: str
    segments: tuple[ChainLink, ...]
    calls: tuple[str, ...]
    functions: tuple[str, ...]
    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    layers: int
    channel_dim: int = FIRST
    conv_dims: int = 0

    @property
    def gives_maps(self) -> bool:
        """Whether what it gives are feature maps: of an image, or as its convolutions make them."""
        dims = len(self.out_shape) - 2
        return dims == 2 or (dims == self.conv_dims and self.channel_dim == FIRST)

    @property
    def modules(self) -> tuple[str, ...]:
        """Qualified names of the modules that are called."""
        return tuple(module_of(call) for call in self.calls)

    @property
    def nodes(self) -> tuple[fx.Node, ...]:
        """All nodes of the block, in graph order."""
        return tuple(node for segment in self.segments for node in segment.nodes)


@dataclass(frozen=True)
class Unit:
    """Neighbouring segments that belong to one module call, or one segment that belongs to none."""

    call: str | None
    segments: tuple[ChainLink, ...]
    is_leaf: bool
    is_whole: bool
    layers: int

    @property
    def sealed(self) -> bool:
        """Whether it is all of its call, and nothing from its inside is used outside."""
        return self.is_whole and all(segment.sealed for segment in self.segments)


class Anatomy:
    """Facts by which the blocks of a graph are found: shapes, the hierarchy of calls, layers.

    Args:
        graph: The graph.
        module: The module it was traced from.
        values: The value of each node (see `propagate`).
    """

    def __init__(self, graph: fx.Graph, module: nn.Module, values: Mapping[fx.Node, Any]) -> None:
        self.graph, self.values = graph, values
        self._dims = channel_dims(graph, module, values)
        self._modules = dict(module.named_modules(remove_duplicate=False))
        # Constants (a parameter, reshaped) are computed inside a call but are no part of a chain.
        self._size: dict[str, int] = {}
        for node in on_the_way(graph):
            for call in calls_of(node):
                self._size[call] = self._size.get(call, 0) + 1

    def shape(self, node: fx.Node) -> tuple[int, ...] | None:
        """Shape of a node's value, where that is one tensor that goes on to other nodes."""
        value = self.values.get(node) if node.op != "output" else None
        return tuple(value.shape) if isinstance(value, Tensor) else None

    def module(self, call: str) -> nn.Module:
        """The module that a call is of."""
        return self._modules[module_of(call)]

    def layers_in(self, nodes: Sequence[fx.Node]) -> int:
        """How many of the nodes call a layer with weights that mix channels."""
        return sum(
            node.op == "call_module" and isinstance(self._modules[str(node.target)], LAYERS)
            for node in nodes
        )

    def conv_dims_in(self, nodes: Sequence[fx.Node]) -> int:
        """Dimensions of the maps of the convolutions that the nodes call, the most; 0 for none."""
        called = (self._modules[str(node.target)] for node in nodes if node.op == "call_module")
        return max(map(dimensions, called), default=0)

    def units(self, segments: Sequence[ChainLink], depth: int) -> list[Unit]:
        """Segments grouped by the module call, ``depth`` levels down, that they lie in."""
        found: list[Unit] = []
        group: list[ChainLink] = []
        current: str | None = None
        for segment in segments:
            stack = common_calls(segment.nodes)
            call = stack[depth] if len(stack) > depth else None
            if group and (call is None or call != current):
                found.append(self._unit(current, group))
                group = []
            group.append(segment)
            current = call
        return [*found, self._unit(current, group)] if group else found

    def is_all_of(self, call: str, nodes: Sequence[fx.Node]) -> bool:
        """Whether the nodes are just those of a module call."""
        return self._size[call] == len(nodes)

    def keeps_shape(self, block: Block) -> bool:
        """Whether what enters a block has its output's shape, and its channels where that has."""
        entry = block.segments[0].entry
        is_alike = self._dims.get(entry, block.channel_dim) == block.channel_dim
        return block.in_shape == block.out_shape and is_alike

    def _unit(self, call: str | None, segments: Sequence[ChainLink]) -> Unit:
        nodes = [node for segment in segments for node in segment.nodes]
        is_leaf = call is None or (len(nodes) == 1 and nodes[0].op == "call_module")
        is_leaf = is_leaf and not (call and module_of(call) != str(nodes[0].target))
        inside = sum(call in calls_of(node) for node in nodes) if call else 0
        return Unit(
            call=call,
            segments=tuple(segments),
            is_leaf=is_leaf,
            layers=self.layers_in(nodes),
            is_whole=call is None or inside == self._size[call],
        )

    def blocks(self, units: Sequence[Unit]) -> Iterator[list[Block]]:
        """The units as blocks, in stretches that follow one another without a break.

        What has no layer and keeps its input's shape (norms, activations) goes with the block
        before it; what changes the shape (pooling, padding) breaks the stretch.
        """
        stretch: list[Block] = []
        block: list[Unit] = []
        for unit in units:
            if block and unit.sealed and not unit.layers and self._keeps_shape(unit):
                block.append(unit)
                continue
            stretch += self._block(block)
            block = [unit] if unit.layers and unit.sealed else []
            if not block or self.shape(unit.segments[-1].exit) is None:
                yield stretch
                stretch, block = [], []
        yield [*stretch, *self._block(block)]

    def _keeps_shape(self, unit: Unit) -> bool:
        entry, exit_ = unit.segments[0].entry, unit.segments[-1].exit
        return self.shape(entry) == self.shape(exit_)

    def _block(self, units: Sequence[Unit]) -> Iterator[Block]:
        """One block of the units; none where a shape is not known or a tensor is no feature map."""
        if not units:
            return
        segments = tuple(s for unit in units for s in unit.segments)
        in_shape, out_shape = self.shape(segments[0].entry), self.shape(segments[-1].exit)
        if in_shape is None or out_shape is None:
            return
        functions = [n.name for u in units if u.call is None for s in u.segments for n in s.nodes]
        named = [unit.call for unit in units if unit.call is not None]
        main = [unit.call for unit in units if unit.call is not None and unit.layers]
        yield Block(
            name=(main or named or functions)[0],
            segments=segments,
            calls=tuple(named),
            functions=tuple(functions),
            in_shape=in_shape,
            out_shape=out_shape,
            layers=sum(unit.layers for unit in units),
            channel_dim=self._dims.get(segments[-1].exit, FIRST),
            conv_dims=self.conv_dims_in([node for s in segments for node in s.nodes]),
        )


def calls_of(node: fx.Node) -> tuple[str, ...]:
    """The module calls that a node lies in, outermost first."""
    return tuple(node.meta.get("nn_module_stack") or ())


def common_calls(nodes: Sequence[fx.Node]) -> tuple[str, ...]:
    """The module calls that all of the nodes lie in, outermost first."""
    common = []
    for level in zip(*map(calls_of, nodes), strict=False):
        if len(set(level)) > 1:
            break
        common.append(level[0])
    return tuple(common)


def module_of(call: str) -> str:
    """The qualified name of a call's module: ``layer1.0.relu@1`` is of ``layer1.0.relu``."""
    return call.partition("@")[0]
