"""Where in a network ghost modules need no concat, and what their readers become there."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from networkx.utils import UnionFind
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.deploy.apart import (
    ConcatApart,
    DepthwiseApart,
    DividedConv,
    GhostApart,
    SummedConv,
)
from ghostify.deploy.channel_spaces import called_once, has_plain_weight
from ghostify.deploy.ghosts import FusedGhost, is_hooked
from ghostify.deploy.maps_apart import BY_CHANNEL, ENDS, JOINS, are_places
from ghostify.deploy.norms import fold_norms, is_foldable
from ghostify.nn.concat import Concat
from ghostify.nn.swap import replace_modules

COPY = 2
"""What a concat costs for each of its maps: one is read and one is written."""

IN_TORCH = 4.0
"""What adding to a map costs in PyTorch on a CPU, where it is a run of its own."""

IN_FILES = 1.0
"""In runtimes that let a convolution add to what is there."""

_LAYERS = frozenset(
    {nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.ELU,
     nn.Mish, nn.Hardtanh, nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d}
)  # fmt: skip
_JOINS = JOINS | {operator.add, operator.iadd}
_SCALES = frozenset({operator.mul, operator.imul, torch.mul})
_MEANS = frozenset({torch.mean, "mean"})
_ENDS = ENDS | {nn.AdaptiveAvgPool2d}


def keep_apart(graph: fx.Graph, module: nn.Module, addition: float) -> None:
    """Leave out concats whose maps only convolutions read, where that is cheaper.

    Args:
        graph: A graph of ``module``, whose ghost modules are fused.
        module: In eval mode; changed in place.
        addition: What adding to a map costs, where copying one costs 2.
    """
    flows = [flow for flow in find_flows(graph, module) if flow.saves(addition)]
    once = called_once(graph, module)
    makers = {once[node] for flow in flows for node in flow.makers}
    ghosts = {maker for maker in makers if isinstance(maker, FusedGhost)}
    fold_norms(graph, module, (FusedGhost,), ghosts)
    replace_modules(module, _convolutions(flows))
    apart: dict[nn.Module, nn.Module] = {ghost: GhostApart.of(ghost) for ghost in ghosts}
    apart.update((c, ConcatApart(c.sizes)) for c in makers if isinstance(c, Concat))
    replace_modules(module, apart)


def _convolutions(flows: Sequence[Flow]) -> dict[nn.Module, nn.Module]:
    """What convolutions become that read or make the maps of flows."""
    found: dict[nn.Module, nn.Module] = {}
    inputs = {conv: flow.sizes for flow in flows for conv in flow.readers}
    for conv, sizes in inputs.items():
        found[conv] = SummedConv.of(conv, sizes)
    for flow in flows:
        for conv in flow.writers:
            found[conv] = DividedConv.of(conv, flow.sizes, inputs.get(conv, ()))
        for conv in flow.depthwise:
            found[conv] = DepthwiseApart.of(conv, flow.sizes)
    return found


@dataclass
class Flow:
    """Maps that flow together through a graph, all in the same parts.

    Attributes:
        sizes: Channels of each part.
        makers: Nodes of the ghost modules, or concats, that make them.
        writers: Convolutions that make maps which are added to them.
        readers: Convolutions that read them.
        depthwise: Depth-wise convolutions that they go through.
        added: How many maps the readers make anew for each part but one, and the writers read anew,
            in maps of the size that the makers give.
        is_open: Whether nothing else reads them.
    """

    sizes: tuple[int, ...]
    makers: list[fx.Node] = field(default_factory=list)
    writers: list[_ConvNd] = field(default_factory=list)
    readers: list[_ConvNd] = field(default_factory=list)
    depthwise: list[_ConvNd] = field(default_factory=list)
    added: float = 0.0
    is_open: bool = True

    def saves(self, addition: float) -> bool:
        """Whether leaving out the concats is cheaper than adding up what the readers make."""
        copied = COPY * sum(self.sizes) * len(self.makers)
        return self.is_open and addition * (len(self.sizes) - 1) * self.added < copied

    def take(self, other: Flow) -> None:
        """Become one with another."""
        self.makers += other.makers
        self.writers += other.writers
        self.readers += other.readers
        self.depthwise += other.depthwise
        self.added += other.added
        self.is_open &= other.is_open


def find_flows(graph: fx.Graph, module: nn.Module) -> list[Flow]:
    """The flows of a graph whose ghost modules are fused."""
    return [*_Walk(graph, module).run()]


class _Walk:
    def __init__(self, graph: fx.Graph, module: nn.Module) -> None:
        self.graph = graph
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.once = called_once(graph, module)
        self.flows: dict[fx.Node, Flow] = {}
        self.begun: dict[fx.Node, fx.Node] = {}
        self.places: dict[fx.Node, float] = {}
        self.union = UnionFind()

    def run(self) -> Iterator[Flow]:
        for node in self.graph.nodes:
            given = [before for before in node.all_input_nodes if before in self.begun]
            layer = self.modules.get(str(node.target)) if node.op == "call_module" else None
            if given and not self._goes_on(node, layer, given):
                self._close(given)
            if isinstance(layer, FusedGhost | Concat) and self._begins(node, layer):
                self.flows[node] = Flow(layer.sizes, [node])
                self.begun[node], self.places[node] = node, 1.0
        whole: dict[fx.Node, Flow] = {}
        for node, flow in self.flows.items():
            root = self.union[node]
            if root in whole:
                whole[root].take(flow)
            else:
                whole[root] = flow
        yield from whole.values()

    def _begins(self, node: fx.Node, maker: FusedGhost | Concat) -> bool:
        if node not in self.once or is_hooked(maker):
            return False
        if isinstance(maker, Concat):
            return type(maker) is Concat
        is_plain = type(maker) is FusedGhost and maker.order is None
        return is_plain and isinstance(maker.primary, nn.Conv2d) and len(node.args) == 1

    def _goes_on(self, node: fx.Node, layer: nn.Module | None, given: Sequence[fx.Node]) -> bool:
        """Whether a node takes maps apart; what it gives is noted where that is apart too."""
        if layer is None:
            return self._is_operation(node, given)
        if isinstance(layer, FusedGhost | _ConvNd):
            return self._is_read(node, layer, given[0])
        if isinstance(layer, _BatchNorm):
            return self._is_folded(node, layer, given[0]) and self._passes_on(node, given[0])
        if type(layer) not in _LAYERS | _ENDS or is_hooked(layer):
            return False
        return type(layer) in _ENDS or self._passes_on(node, given[0], _stride_of(layer))

    def _is_operation(self, node: fx.Node, given: Sequence[fx.Node]) -> bool:
        if node.target in _MEANS:
            told: Any = node.args[1:]
            return len(given) == 1 and are_places(*told, **dict[str, Any](node.kwargs))
        if node.op != "call_function":
            return False
        if node.target in _ENDS:
            return True
        if node.target in _JOINS:
            return self._joins(node, given)
        if node.target in _SCALES:
            return self._is_scaled(node, given)
        return node.target in BY_CHANNEL and self._passes_on(node, given[0])

    def _is_folded(self, node: fx.Node, norm: _BatchNorm, before: fx.Node) -> bool:
        """Whether a norm will become part of the ghost module before it."""
        is_ghost = isinstance(self.once.get(before), FusedGhost)
        is_alone = is_ghost and len(before.users) == 1 and node in self.once
        return is_alone and is_foldable(norm)

    def _passes_on(self, node: fx.Node, first: fx.Node, stride: int = 1) -> bool:
        self._note(node, first, stride)
        return len(node.all_input_nodes) == 1

    def _note(self, node: fx.Node, first: fx.Node, stride: int = 1) -> None:
        """Note that a node gives maps apart, of a part of the places of those that it takes."""
        self.begun[node], self.places[node] = self.begun[first], self.places[first] / stride

    def _is_scaled(self, node: fx.Node, given: Sequence[fx.Node]) -> bool:
        """Whether a node multiplies maps apart by a factor that is not apart."""
        apart = [value for value in node.args if value in self.begun]
        self._note(node, given[0])
        return len(apart) == 1 and not node.kwargs

    def _joins(self, node: fx.Node, given: Sequence[fx.Node]) -> bool:
        """Whether a node adds up two values that are apart, or that convolutions can make so."""
        first = given[0]
        flow = self.flows[self.begun[first]]
        is_alike = all(self.flows[self.begun[value]].sizes == flow.sizes for value in given)
        if not is_alike or len(node.args) != 2 or node.kwargs:
            return False
        for value in node.args:
            if value not in given and not self._is_written(value, flow, self.places[first]):
                return False
        for value in given:
            self.union.union(self.begun[first], self.begun[value])
        self._note(node, first)
        return True

    def _is_written(self, value: Any, flow: Flow, places: float) -> bool:
        """Whether a convolution can give a value in the parts of a flow."""
        conv = self._writer_of(value)
        if conv is None or conv.out_channels != sum(flow.sizes):
            return False
        flow.writers.append(conv)
        flow.added += conv.in_channels * places * prod(conv.stride)
        return True

    def _writer_of(self, value: Any) -> _ConvNd | None:
        """The convolution whose maps a value is, where nothing else reads them."""
        while isinstance(value, fx.Node) and len(value.users) == 1:
            layer = self.once.get(value)
            if type(layer) is nn.Identity and not is_hooked(layer):
                value = value.args[0]
                continue
            conv = None if isinstance(layer, FusedGhost) else self._plain_conv(value, layer)
            return conv if conv is not None and conv.groups == 1 else None
        return None

    def _plain_conv(self, node: fx.Node, layer: nn.Module | None) -> nn.Conv2d | None:
        """The convolution of a layer, where the layer gives that alone what the node takes."""
        conv = layer.primary if isinstance(layer, FusedGhost) else layer
        is_alone = node in self.once and len(node.args) == 1 and not node.kwargs
        if not isinstance(conv, nn.Conv2d) or not is_alone or not has_plain_weight(conv):
            return None
        return None if layer is None or is_hooked(layer) else conv

    def _is_read(self, node: fx.Node, layer: nn.Module, first: fx.Node) -> bool:
        """Whether a node's convolution reads maps apart, or keeps them apart."""
        flow, conv = self.flows[self.begun[first]], self._plain_conv(node, layer)
        if conv is None:
            return False
        if conv.groups == 1:
            flow.readers.append(conv)
            flow.added += conv.out_channels * self.places[first] / prod(conv.stride)
            return True
        if conv is layer and conv.groups == conv.in_channels == conv.out_channels:
            flow.depthwise.append(conv)
            return self._passes_on(node, first, prod(conv.stride))
        return False

    def _close(self, given: Sequence[fx.Node]) -> None:
        for value in given:
            self.flows[self.begun[value]].is_open = False


def _stride_of(layer: nn.Module) -> int:
    """How many places of the maps that it takes there are for one of those that a layer gives."""
    stride = getattr(layer, "stride", 1)
    return prod(stride) if isinstance(stride, tuple) else stride * stride
