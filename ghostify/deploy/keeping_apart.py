"""Where in a network ghost modules need no concat, and what their readers become there."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod

from networkx.utils import UnionFind
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.deploy.apart import BY_CHANNEL, ENDS, JOINS, DepthwiseApart, GhostApart, SummedConv
from ghostify.deploy.channel_spaces import called_once, has_plain_weight
from ghostify.deploy.ghosts import FusedGhost, is_hooked
from ghostify.deploy.norms import fold_norms, is_foldable
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
    ghosts = {once[node] for flow in flows for node in flow.ghosts}
    fold_norms(graph, module, (FusedGhost,), ghosts)
    found: dict[nn.Module, nn.Module] = {}
    for flow in flows:
        for conv in flow.readers:
            found[conv] = SummedConv.of(conv, flow.sizes)
        for conv in flow.depthwise:
            found[conv] = DepthwiseApart.of(conv, flow.sizes)
    replace_modules(module, found)
    replace_modules(module, {g: GhostApart.of(g) for g in ghosts if isinstance(g, FusedGhost)})


@dataclass
class Flow:
    """Maps that flow together through a graph, all in the same parts.

    Attributes:
        sizes: Channels of each part.
        ghosts: Nodes of the ghost modules that make them.
        readers: Convolutions that read them.
        depthwise: Depth-wise convolutions that they go through.
        is_open: Whether nothing else reads them.
    """

    sizes: tuple[int, ...]
    ghosts: list[fx.Node] = field(default_factory=list)
    readers: list[_ConvNd] = field(default_factory=list)
    depthwise: list[_ConvNd] = field(default_factory=list)
    is_open: bool = True

    def saves(self, addition: float) -> bool:
        """Whether leaving out the concats is cheaper than adding up what the readers make."""
        made = sum(conv.out_channels / prod(conv.stride) for conv in self.readers)
        copied = COPY * sum(self.sizes) * len(self.ghosts)
        return self.is_open and addition * (len(self.sizes) - 1) * made < copied

    def take(self, other: Flow) -> None:
        """Become one with another."""
        self.ghosts += other.ghosts
        self.readers += other.readers
        self.depthwise += other.depthwise
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
        self.union = UnionFind()

    def run(self) -> Iterator[Flow]:
        for node in self.graph.nodes:
            given = [before for before in node.all_input_nodes if before in self.begun]
            layer = self.modules.get(str(node.target)) if node.op == "call_module" else None
            if given and not self._goes_on(node, layer, given):
                self._close(given)
            if isinstance(layer, FusedGhost) and self._begins(node, layer):
                self.flows[node] = Flow(layer.sizes, [node])
                self.begun[node] = node
        whole: dict[fx.Node, Flow] = {}
        for node, flow in self.flows.items():
            root = self.union[node]
            if root in whole:
                whole[root].take(flow)
            else:
                whole[root] = flow
        yield from whole.values()

    def _begins(self, node: fx.Node, ghost: FusedGhost) -> bool:
        is_plain = type(ghost) is FusedGhost and ghost.order is None and not is_hooked(ghost)
        is_two_dimensional = isinstance(ghost.primary, nn.Conv2d)
        return node in self.once and is_plain and is_two_dimensional and len(node.args) == 1

    def _goes_on(self, node: fx.Node, layer: nn.Module | None, given: Sequence[fx.Node]) -> bool:
        """Whether a node takes maps apart; what it gives is noted where that is apart too."""
        if layer is None:
            return node.op == "call_function" and self._is_function(node, given)
        if isinstance(layer, FusedGhost | _ConvNd):
            return self._is_read(node, layer, given[0])
        if isinstance(layer, _BatchNorm):
            return self._is_folded(node, layer, given[0]) and self._passes_on(node, given[0])
        if type(layer) not in _LAYERS | _ENDS or is_hooked(layer):
            return False
        return type(layer) in _ENDS or self._passes_on(node, given[0])

    def _is_function(self, node: fx.Node, given: Sequence[fx.Node]) -> bool:
        if node.target in _ENDS:
            return True
        if node.target in _JOINS:
            return self._joins(node, given)
        return node.target in BY_CHANNEL and self._passes_on(node, given[0])

    def _is_folded(self, node: fx.Node, norm: _BatchNorm, before: fx.Node) -> bool:
        """Whether a norm will become part of the ghost module before it."""
        is_alone = before in self.flows and len(before.users) == 1 and node in self.once
        return is_alone and is_foldable(norm)

    def _passes_on(self, node: fx.Node, first: fx.Node) -> bool:
        self.begun[node] = self.begun[first]
        return len(node.all_input_nodes) == 1

    def _joins(self, node: fx.Node, given: Sequence[fx.Node]) -> bool:
        sizes = {self.flows[self.begun[value]].sizes for value in given}
        if len(sizes) > 1 or list(node.args) != given or node.kwargs:
            return False
        for value in given:
            self.union.union(self.begun[given[0]], self.begun[value])
        self.begun[node] = self.begun[given[0]]
        return True

    def _is_read(self, node: fx.Node, layer: nn.Module, first: fx.Node) -> bool:
        """Whether a node's convolution reads maps apart, or keeps them apart."""
        flow = self.flows[self.begun[first]]
        conv = layer.primary if isinstance(layer, FusedGhost) else layer
        is_alone = node in self.once and len(node.args) == 1 and not node.kwargs
        is_plain = isinstance(conv, nn.Conv2d) and has_plain_weight(conv) and not is_hooked(layer)
        if not is_plain or not is_alone:
            return False
        assert isinstance(conv, nn.Conv2d)
        if conv.groups == 1:
            flow.readers.append(conv)
            return True
        if conv is layer and conv.groups == conv.in_channels == conv.out_channels:
            flow.depthwise.append(conv)
            return self._passes_on(node, first)
        return False

    def _close(self, given: Sequence[fx.Node]) -> None:
        for value in given:
            self.flows[self.begun[value]].is_open = False
