"""A network as a chain of segments: one tensor goes in, one comes out, nothing passes by."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from torch import fx, nn

from ghostify.graph.execution import Env, Executor, made_from
from ghostify.graph.trace import LAYERS, LayerTracer


@dataclass(frozen=True)
class Segment:
    """A part of a network that nothing passes by; runs in any network of the same graph.

    Attributes:
        entry: The node whose value goes in; None for a network that does not trace.
        nodes: What is computed, in order; empty for a network that does not trace.
        layers: Names of the modules that it calls.
    """

    entry: fx.Node | None
    nodes: tuple[fx.Node, ...]
    layers: tuple[str, ...]

    def run(self, network: nn.Module, x: Any) -> Any:
        """What ``network`` makes of ``x`` in this segment."""
        last = self.nodes[-1] if self.entry is not None else None
        return network(x) if last is None else self.values(network, x, (last,))[last]

    def values(self, network: nn.Module, x: Any, wanted: Collection[fx.Node]) -> Env:
        """The values of some nodes (the entry may be among them): only they are worked out."""
        assert self.entry is not None
        executor = Executor(self.entry.graph, network)
        return executor.values(self.nodes, wanted, {self.entry: x})

    def behind(self, wanted: Iterable[fx.Node]) -> set[fx.Node]:
        """Some nodes, and all of the segment's that they are made from."""
        return made_from(wanted, self.nodes)


def split(network: nn.Module, wanted: Callable[[str], bool]) -> list[Segment]:
    """The chain of a network's segments, each with at least one wanted layer where that can be.

    Args:
        network: A network in eval mode that takes one tensor; it is not changed.
        wanted: Whether a module of this name is one that the segments are for.

    Returns:
        The segments in order; a single one that is the whole network where it does not trace.
    """
    whole = [Segment(None, (), tuple(name for name, _ in network.named_modules() if name))]
    try:
        graph = LayerTracer().trace(network)
    except Exception:
        return whole
    entries = [node for node in graph.nodes if node.op == "placeholder"]
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    if not nodes or not entries or any(node.users for node in entries[1:]):
        return whole
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    cuts = _cuts(entries[0], nodes)
    if result is not nodes[-1]:  # several results, or one that more comes after
        return whole
    return _gather(network, entries[0], nodes, cuts, wanted)


def _cuts(entry: fx.Node, nodes: list[fx.Node]) -> list[bool]:
    """For each node, whether its value is the only one that is used after it."""
    place = {node: index for index, node in enumerate(nodes)}
    last = [max((place.get(u, len(nodes)) for u in node.users), default=-1) for node in nodes]
    reach = max((place.get(user, len(nodes)) for user in entry.users), default=-1)
    cuts = []
    for index in range(len(nodes)):
        # `reach`: the last use of anything made before this node; constants may be read anywhere.
        cuts.append(reach <= index)
        if nodes[index].op != "get_attr":
            reach = max(reach, last[index])
    return cuts


def _gather(
    network: nn.Module,
    entry: fx.Node,
    nodes: list[fx.Node],
    cuts: list[bool],
    wanted: Callable[[str], bool],
) -> list[Segment]:
    segments: list[Segment] = []
    current: list[fx.Node] = []
    constants: list[fx.Node] = []
    for index, node in enumerate(nodes):
        if node.op == "get_attr":
            constants.append(node)
        current.append(node)
        is_end = index + 1 == len(nodes)
        # A norm or an activation that alone follows belongs to the layer before it.
        glued = not is_end and cuts[index + 1] and not _is_layer(network, nodes[index + 1])
        if is_end or (cuts[index] and not glued and _holds(current, wanted)):
            segments.append(_segment(entry, current))
            entry, current = node, list(constants)
    return segments


def _segment(entry: fx.Node, nodes: list[fx.Node]) -> Segment:
    called = [str(node.target) for node in nodes if node.op == "call_module"]
    return Segment(entry, tuple(nodes), tuple(dict.fromkeys(called)))


def _holds(nodes: list[fx.Node], wanted: Callable[[str], bool]) -> bool:
    return any(node.op == "call_module" and wanted(str(node.target)) for node in nodes)


def _is_layer(network: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), LAYERS)
