"""Which values of a graph share their channels' order, and who writes and reads them.

Values that are added, multiplied or worked out of each other channel by channel have one order of
channels: they are a *space*. Where all that writes into a space and all that reads it is known,
its channels can be put into any order without changing what the network gives.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from networkx.utils import UnionFind
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.deploy.ghosts import is_hooked
from ghostify.graph.channelwise import is_channelwise
from ghostify.nn.concat import Concat
from ghostify.nn.ghost import GhostConv
from ghostify.nn.ghost_kinds import CONV_KINDS

_JOINS = frozenset(
    {operator.add, operator.iadd, operator.mul, operator.imul, operator.sub, torch.add, torch.mul,
     "add", "add_", "mul", "mul_", "sub"}
)  # fmt: skip
_BY_CHANNEL = frozenset(
    {torch.sigmoid, torch.tanh, F.sigmoid, F.hardsigmoid, F.dropout, F.max_pool2d, F.avg_pool2d,
     F.adaptive_avg_pool2d, F.interpolate, F.mish, F.elu, "sigmoid", "contiguous", "clone"}
)  # fmt: skip
_BY_CHANNEL_LAYERS = (
    nn.Sigmoid, nn.Hardsigmoid, nn.Tanh, nn.Mish, nn.ELU, nn.AdaptiveAvgPool2d, nn.Upsample,
)  # fmt: skip
_ASKS = frozenset({"size", "dim"})


@dataclass(frozen=True)
class Channels:
    """The channels of a value, at its dimension 1.

    Attributes:
        atoms: The spaces that lie one after another, by their numbers.
        dimensions: Of the maps.
        is_flat: Whether each channel's pixels follow each other in dimension 1.
    """

    atoms: tuple[int, ...]
    dimensions: int = 2
    is_flat: bool = False


@dataclass
class Space:
    """Channels of one order.

    Attributes:
        size: How many.
        is_pinned: Whether something unknown depends on their order.
        writers: Layers whose outputs they are.
    """

    size: int
    is_pinned: bool = False
    writers: list[nn.Module] = field(default_factory=list)


@dataclass
class ChannelSpaces:
    """The spaces of a graph.

    Attributes:
        spaces: By the numbers of their first atoms.
        reads: What reads channels, mixing them.
        passes: Layers that keep channels apart and have parameters for each.
    """

    spaces: dict[int, Space]
    reads: list[tuple[nn.Module, Channels]]
    passes: list[tuple[nn.Module, Channels]]
    root: Callable[[int], int]

    def of(self, channels: Channels) -> list[Space]:
        """The spaces of a value's channels, one after another."""
        return [self.spaces[self.root(atom)] for atom in channels.atoms]


def find_spaces(graph: fx.Graph, module: nn.Module) -> ChannelSpaces:
    """Follow the channels of every value of a graph.

    Args:
        graph: A graph of ``module``.
        module: The module, in eval mode; it is not changed.
    """
    return _Walk(graph, module).run()


def called_once(graph: fx.Graph, module: nn.Module) -> dict[fx.Node, nn.Module]:
    """The modules that a graph calls once, and whose tensors serve nowhere else."""
    modules = dict(module.named_modules(remove_duplicate=False))
    calls = [node for node in graph.nodes if node.op == "call_module"]
    times = Counter(id(modules[str(node.target)]) for node in calls)
    owners = Counter(id(t) for m in module.modules() for t in m._parameters.values())
    read = {id(modules.get(str(n.target).rpartition(".")[0])) for n in graph.nodes
            if n.op == "get_attr"}  # fmt: skip

    def is_alone(layer: nn.Module) -> bool:
        own = [p for p in layer.parameters() if p is not None]
        shared = any(owners[id(p)] > 1 for p in own)
        return times[id(layer)] == 1 and not shared and id(layer) not in read

    found = ((node, modules[str(node.target)]) for node in calls)
    return {node: layer for node, layer in found if is_alone(layer)}


class _Walk:
    def __init__(self, graph: fx.Graph, module: nn.Module) -> None:
        self.graph = graph
        self.modules = dict(module.named_modules(remove_duplicate=False))
        self.once = called_once(graph, module)
        self.values: dict[fx.Node, Channels] = {}
        self.atoms: list[Space] = []
        self.union = UnionFind()
        self.reads: list[tuple[nn.Module, Channels]] = []
        self.passes: list[tuple[nn.Module, Channels]] = []

    def run(self) -> ChannelSpaces:
        for node in self.graph.nodes:
            if node.op in ("placeholder", "get_attr") or self._only_asks(node):
                continue
            channels = self._channels(node)
            if channels is None:
                self._pin(node.all_input_nodes)
            else:
                self.values[node] = channels
        return ChannelSpaces(self._gathered(), self.reads, self.passes, self.union.__getitem__)

    def _gathered(self) -> dict[int, Space]:
        spaces: dict[int, Space] = {}
        for number, atom in enumerate(self.atoms):
            space = spaces.setdefault(self.union[number], Space(atom.size))
            space.is_pinned |= atom.is_pinned
            space.writers += atom.writers
        return spaces

    def _channels(self, node: fx.Node) -> Channels | None:
        """The channels of a node's value; None where they are not followed."""
        if node.op == "call_module":
            layer = self.modules[str(node.target)]
            if is_hooked(layer):
                return None
            kinds = (method for kind, method in _OF_LAYERS if isinstance(layer, kind))
            return next(kinds, _Walk._of_free_layer)(self, node, layer)
        handler = _OF_FUNCTIONS.get(node.target)
        if handler is not None:
            return handler(self, node)
        keeps = is_channelwise(node, None) or node.target in _BY_CHANNEL
        return self._map_into(node) if keeps else None

    def _source(self, node: fx.Node) -> Channels | None:
        """The channels of the one value that a node takes."""
        return self.values.get(node.all_input_nodes[0]) if len(node.all_input_nodes) == 1 else None

    def _map_into(self, node: fx.Node) -> Channels | None:
        source = self._source(node)
        return None if source is None or source.is_flat else source

    def _of_free_layer(self, node: fx.Node, layer: nn.Module) -> Channels | None:
        """Of a layer without tensors of its own."""
        is_free = not list(layer.parameters()) and not list(layer.buffers())
        keeps = isinstance(layer, _BY_CHANNEL_LAYERS) or is_channelwise(node, layer)
        return self._map_into(node) if keeps and is_free else None

    def _of_norm(self, node: fx.Node, norm: nn.Module) -> Channels | None:
        source = self._map_into(node)
        if source is None or node not in self.once or not _is_open_norm(norm):
            return None
        return self._passed(norm, source)

    def _of_linear(self, node: fx.Node, linear: nn.Module) -> Channels | None:
        source = self._source(node)
        if source is None or not source.is_flat or not self._is_plain(node, linear):
            return None
        self.reads.append((linear, source))
        return self._new(linear.out_features, linear, 0)  # type: ignore[arg-type]

    def _of_flatten(self, node: fx.Node, layer: nn.Module) -> Channels | None:
        assert isinstance(layer, nn.Flatten)
        source = self._map_into(node)
        is_usual = (layer.start_dim, layer.end_dim) == (1, -1)
        return replace(source, is_flat=True) if source is not None and is_usual else None

    def _flattened(self, node: fx.Node) -> Channels | None:
        source, dims = self._map_into(node), _arguments(node, ("start_dim", 0), ("end_dim", -1))
        return replace(source, is_flat=True) if source is not None and dims == [1, -1] else None

    def _of_conv(self, node: fx.Node, conv: nn.Module) -> Channels | None:
        assert isinstance(conv, _ConvNd)
        source = self._map_into(node)
        if not self._is_plain(node, conv):
            return None
        if conv.groups == 1 and source is not None:
            self.reads.append((conv, source))
        elif conv.groups == conv.in_channels == conv.out_channels and source is not None:
            return self._passed(conv, source)  # its weights lie channel by channel, turned or not
        else:
            self._pin(node.all_input_nodes)
        writer = conv if conv.groups == 1 else None
        return self._new(conv.out_channels, writer, len(conv.kernel_size))

    def _of_ghost(self, node: fx.Node, ghost: nn.Module) -> Channels | None:
        assert isinstance(ghost, GhostConv)
        if node not in self.once or not isinstance(ghost.primary, _ConvNd):
            return None
        source = self._map_into(node)
        if ghost.primary.groups == 1 and has_plain_weight(ghost.primary) and source is not None:
            self.reads.append((ghost.primary, source))
        else:
            self._pin(node.all_input_nodes)
        is_open = ghost.bias is None and ghost.scale is None  # those know the outputs by place
        dimensions = len(ghost.primary.kernel_size)
        return self._new(ghost.out_channels, ghost if is_open else None, dimensions)

    def _is_plain(self, node: fx.Node, layer: nn.Module) -> bool:
        """Whether a layer is PyTorch's own, called once, with tensors of its own."""
        return node in self.once and has_plain_weight(layer)

    def _passed(self, layer: nn.Module, source: Channels) -> Channels:
        self.passes.append((layer, source))
        return source

    def _new(self, size: int, writer: nn.Module | None, dimensions: int) -> Channels:
        self.atoms.append(Space(size, writer is None, [] if writer is None else [writer]))
        return Channels((len(self.atoms) - 1,), dimensions)

    def _joined(self, node: fx.Node) -> Channels | None:
        values = [self.values.get(n) for n in node.all_input_nodes]
        first = values[0] if values else None
        if first is None:
            return None
        sizes = [self.atoms[atom].size for atom in first.atoms]
        for other in values[1:]:
            if other is None or other.is_flat != first.is_flat:
                return None
            if [self.atoms[atom].size for atom in other.atoms] != sizes:
                return None
        for other in values[1:]:
            assert other is not None
            for one, two in zip(first.atoms, other.atoms, strict=True):
                self.union.union(one, two)
        return first

    def _concatenated(self, node: fx.Node) -> Channels | None:
        parts = node.args[0] if node.args else node.kwargs.get("tensors")
        (dim,) = _arguments(node, ("dim", 0))
        return self._one_after_another(parts, dim) if isinstance(parts, list | tuple) else None

    def _of_concat(self, node: fx.Node, concat: nn.Module) -> Channels | None:
        whole = self._one_after_another(node.args, 1)
        sizes = () if whole is None else [self.atoms[atom].size for atom in whole.atoms]
        return whole if concat.sizes == tuple(sizes) else None  # else some have a surplus

    def _one_after_another(self, parts: Sequence[Any], dim: Any) -> Channels | None:
        values = [self.values.get(part) for part in parts]
        atoms: list[int] = []
        for value in values:
            if value is None or value.is_flat or dim not in (1, -1 - value.dimensions):
                return None
            atoms += value.atoms
        assert values[0] is not None
        return Channels(tuple(atoms), values[0].dimensions)

    def _averaged(self, node: fx.Node) -> Channels | None:
        dims, keep = _arguments(node, ("dim", None), ("keepdim", False))
        source = self._map_into(node)
        dims = [dims] if isinstance(dims, int) else dims
        if source is None or not isinstance(dims, list | tuple):
            return None
        rank = 2 + source.dimensions
        if sorted(dim % rank for dim in dims) != list(range(2, rank)):
            return None
        return replace(source, is_flat=not keep)

    def _pin(self, nodes: Sequence[fx.Node]) -> None:
        for node in nodes:
            channels = self.values.get(node)
            for atom in () if channels is None else channels.atoms:
                self.atoms[atom].is_pinned = True

    @staticmethod
    def _only_asks(node: fx.Node) -> bool:
        """Whether a node asks for what doesn't depend on the channels' order."""
        if node.op == "call_method":
            return node.target in _ASKS
        return node.target is getattr and node.args[1] in ("shape", "dtype", "device")


def _arguments(node: fx.Node, *named: tuple[str, Any]) -> list[Any]:
    """Arguments after the first, by position or by name, or their defaults."""
    given = dict(zip((name for name, _ in named), node.args[1:], strict=False))
    return [{**given, **node.kwargs}.get(name, default) for name, default in named]


def has_plain_weight(layer: nn.Module) -> bool:
    """Whether a layer is PyTorch's own, and computes with its weight and bias as they are."""
    is_torchs = type(layer) in (*CONV_KINDS, nn.Linear)
    return is_torchs and set(layer._parameters) == {"weight", "bias"}


def _is_open_norm(norm: nn.Module) -> bool:
    """Whether a norm's tensors are its own, and what follows inside it keeps channels apart."""
    parts = [part for part in norm.modules() if part is not norm]
    return all(not list(part.parameters(recurse=False)) for part in parts)


_OF_LAYERS: tuple[tuple[type[nn.Module], Callable[[_Walk, fx.Node, nn.Module], Any]], ...] = (
    (GhostConv, _Walk._of_ghost),
    (_ConvNd, _Walk._of_conv),
    (nn.Linear, _Walk._of_linear),
    (_BatchNorm, _Walk._of_norm),
    (nn.Flatten, _Walk._of_flatten),
    (Concat, _Walk._of_concat),
)
"""How the channels of a kind of layer are found; a new kind is one more entry."""

_OF_FUNCTIONS: dict[Any, Callable[[_Walk, fx.Node], Channels | None]] = {
    **dict.fromkeys(_JOINS, _Walk._joined),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), _Walk._concatenated),
    **dict.fromkeys((torch.flatten, "flatten"), _Walk._flattened),
    **dict.fromkeys((torch.mean, "mean"), _Walk._averaged),
}
"""The same for functions and methods that don't just keep channels apart."""
