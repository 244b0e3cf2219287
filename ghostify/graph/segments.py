"""A network as a chain of segments: one tensor goes in, one comes out, nothing passes by."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase

from ghostify.graph.calls import Arguments, call
from ghostify.graph.execution import Env, Executor, Take, made_from
from ghostify.graph.inputs import forward_parameters
from ghostify.graph.trace import LAYERS, BufferTracer, defaults_of


@dataclass(frozen=True)
class Segment:
    """A part of a network that nothing passes by; runs in any network of the same graph.

    Attributes:
        entry: The node whose value goes in (of a network with several inputs the first); None for a
            network that does not trace.
        nodes: What is computed, in order; empty for a network that does not trace.
        layers: Names of the modules that it calls.
        inputs: The network's inputs, where the segment is its first.
        result: What comes out, nested nodes, where that is not the last node's value.
        constants: Tensors that the trace worked out, and sizes that are the same for all samples.
        live: Of the rest of a segment (see `rest`): what goes in, in place of the entry.
    """

    entry: fx.Node | None
    nodes: tuple[fx.Node, ...]
    layers: tuple[str, ...]
    inputs: tuple[fx.Node, ...] = ()
    result: Any = None
    constants: Mapping[fx.Node, Any] = field(default_factory=dict)
    live: tuple[fx.Node, ...] = ()

    def run(self, network: nn.Module, x: Any) -> Any:
        """What ``network`` makes of ``x``, a value or `Arguments`, in this segment."""
        if self.entry is None:
            return call(network, x)
        return self.output(self.values(network, x, self.results()))

    def results(self) -> list[fx.Node]:
        """The nodes that its output is made of."""
        found: list[fx.Node] = []
        fx.node.map_arg(self.nodes[-1] if self.result is None else self.result, found.append)
        return found

    def output(self, found: Env) -> Any:
        """Its output, from the values of these nodes."""
        if self.result is None:
            return found[self.nodes[-1]]
        return fx.node.map_arg(self.result, found.__getitem__)

    def values(
        self,
        network: nn.Module,
        x: Any,
        wanted: Collection[fx.Node],
        take: Take | None = None,
    ) -> Env:
        """The values of some nodes (the entry may be among them), or what is taken of them.

        Only they are worked out; see `Executor.values`.
        """
        assert self.entry is not None
        executor = Executor(self.entry.graph, network)
        given = {**self._given(network, x), **self.constants}
        nodes = [n for n in self.nodes if n not in given] if self.constants else self.nodes
        return executor.values(nodes, wanted, given, take)

    def _given(self, network: nn.Module, x: Any) -> Env:
        """The values of the nodes that the segment begins with."""
        assert self.entry is not None
        if self.live:
            return dict(zip(self.live, x, strict=True))
        if not isinstance(x, Arguments):
            return {self.entry: x}
        bound = inspect.signature(network.forward).bind(*x.args, **x.kwargs)
        bound.apply_defaults()
        return {node: bound.arguments[str(node.target)] for node in self.inputs}

    def rest(self, network: nn.Module, start: fx.Node) -> Segment | None:
        """The segment from a node on, where nothing before it changes in place what goes in.

        Args:
            network: One of those that it runs in.
            start: The first of its nodes.

        Returns:
            A segment that is given the values of its ``live`` nodes, in a tuple.
        """
        if self.entry is None or start not in self.nodes:
            return None
        place = self.nodes.index(start)
        fixed = [n for n in self.nodes[:place] if n.op == "get_attr" or n in self.constants]
        before = [n for n in self.nodes[:place] if n not in fixed]
        known = self.live or self.inputs or (self.entry,)
        needed = {*self.nodes[place:], *self.results()}
        live = [n for n in dict.fromkeys((*known, *before)) if n in needed or needed & set(n.users)]
        executor = Executor(self.entry.graph, network)
        changing = [n for n in before if executor.changes_input(n)]
        touched = [used for n in changing for used in n.all_input_nodes[:1]]
        if any(n in live or not _is_fresh(network, n) for n in touched):
            return None
        return replace(self, nodes=(*fixed, *self.nodes[place:]), inputs=(), live=tuple(live))

    def behind(self, wanted: Iterable[fx.Node]) -> set[fx.Node]:
        """Some nodes, and all of the segment's that they are made from."""
        return made_from(wanted, self.nodes)


def split(
    network: nn.Module,
    wanted: Callable[[str], bool],
    given: frozenset[str] | None = None,
    samples: Sequence[Any] = (),
) -> list[Segment]:
    """The chain of a network's segments, each with at least one wanted layer where that can be.

    Args:
        network: A network in eval mode; it is not changed.
        wanted: Whether a module of this name is one that the segments are for.
        given: Names of the arguments of its forward that it will get; None for the first alone.
        samples: Inputs of some different numbers of samples, where all have the same sizes: what a
            network asks of its input's size and uses at the end does not pass by then.

    Returns:
        The segments in order; a single one that is the whole network where it does not trace.
    """
    whole = [Segment(None, (), tuple(name for name, _ in network.named_modules() if name))]
    try:
        names = given or frozenset(list(forward_parameters(network))[:1])
        graph, constants = _trace(network, names)
    except Exception:
        return whole
    entries = [node for node in graph.nodes if node.op == "placeholder"]
    nodes = [node for node in graph.nodes if node.op not in ("placeholder", "output")]
    inputs = [entry for entry in entries if str(entry.target) in names]
    is_open = any(str(entry.target).startswith("*") for entry in inputs)
    if not nodes or not inputs or is_open or any(e.users for e in entries if e not in inputs):
        return whole
    result = next(node for node in graph.nodes if node.op == "output").args[0]
    sizes = _sizes(network, inputs, nodes, samples)
    asked = _asked_for(nodes, sizes)
    nodes = [*sizes, *(node for node in nodes if node not in asked)]
    cuts = _cuts(inputs, nodes, asked)
    segments = _gather(network, inputs, nodes, cuts, wanted, sizes)
    segments[0] = replace(segments[0], inputs=tuple(inputs))
    if result is not nodes[-1]:  # several results, or one that more comes after
        segments[-1] = replace(segments[-1], result=result)
    known = {**constants, **sizes}
    return [replace(s, constants={n: known[n] for n in s.nodes if n in known}) for s in segments]


def _trace(network: nn.Module, given: frozenset[str]) -> tuple[fx.Graph, dict[fx.Node, Tensor]]:
    """The graph of a network, and the tensors that were worked out on the way."""
    before = set(network.__dict__)
    try:
        graph = BufferTracer().trace(network, defaults_of(network, given) or None)
        _drop_guards(graph)
        made = {node: str(node.target) for node in graph.nodes if node.op == "get_attr"}
        own = network.__dict__
        return graph, {n: own[name] for n, name in made.items() if name in own.keys() - before}
    finally:
        for name in network.__dict__.keys() - before:
            if name.startswith("_tensor_constant"):
                delattr(network, name)


def _drop_guards(graph: fx.Graph) -> None:
    """Take out what the trace put in to check that the other arguments are the defaults."""
    for node in reversed(list(graph.nodes)):
        name = getattr(node.target, "__name__", "")
        is_check = node.op == "call_function" and (name == "eq" or name.startswith("_assert"))
        if is_check and not node.users:
            graph.erase_node(node)


def _sizes(
    network: nn.Module, inputs: list[fx.Node], nodes: list[fx.Node], samples: Sequence[Any]
) -> dict[fx.Node, Any]:
    """What follows from the sizes of the inputs alone, whatever the number of samples."""
    asking: list[fx.Node] = []
    for node in nodes:
        given = node.all_input_nodes
        is_asked = len(given) == 1 and given[0] in inputs and _asks_for_size(node)
        goes_on = node.op == "call_function" and node.target in _OF_NUMBERS
        if given and (is_asked or (goes_on and set(given) <= set(asking))):
            asking.append(node)
    if not asking or len(samples) < 2:
        return {}
    chain = Segment(inputs[0], tuple(asking), (), tuple(inputs))
    try:
        first, *others = (chain.values(network, sample, asking) for sample in samples)
    except Exception:  # sizes of something else than tensors
        return {}
    return {node: first[node] for node in asking if all(o[node] == first[node] for o in others)}


_OF_NUMBERS = frozenset(
    {operator.getitem, operator.add, operator.sub, operator.mul, operator.floordiv}
)


def _asks_for_size(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target == "size"
    return node.target is getattr and node.args[1] == "shape"


def _asked_for(nodes: list[fx.Node], sizes: Collection[fx.Node]) -> set[fx.Node]:
    """The nodes of known values, and those that only they are made from."""
    found = set(sizes)
    for node in reversed(nodes):
        if node.users and set(node.users) <= found and _asks_for_size(node):
            found.add(node)
    return found


def _cuts(inputs: list[fx.Node], nodes: list[fx.Node], known: Collection[fx.Node]) -> list[bool]:
    """For each node, whether its value alone is used after it; what is known does not count."""
    place = {node: index for index, node in enumerate(nodes)}
    last = [max((place.get(u, len(nodes)) for u in node.users), default=-1) for node in nodes]
    readers = (user for entry in inputs for user in entry.users if user not in known)
    reach = max((place.get(user, len(nodes)) for user in readers), default=-1)
    cuts = []
    for index in range(len(nodes)):
        # `reach`: the last use of anything made before this node; constants may be read anywhere.
        cuts.append(reach <= index)
        if nodes[index].op != "get_attr" and nodes[index] not in known:
            reach = max(reach, last[index])
    return cuts


def _gather(
    network: nn.Module,
    inputs: list[fx.Node],
    nodes: list[fx.Node],
    cuts: list[bool],
    wanted: Callable[[str], bool],
    known: Collection[fx.Node],
) -> list[Segment]:
    segments: list[Segment] = []
    entry = inputs[0]
    current: list[fx.Node] = []
    constants: list[fx.Node] = []
    for index, node in enumerate(nodes):
        if node.op == "get_attr" or node in known:
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


def _is_fresh(network: nn.Module, node: fx.Node) -> bool:
    """Whether a node's value is a tensor of its own, and no view of another."""
    if node.op == "call_module":
        return isinstance(network.get_submodule(str(node.target)), (*LAYERS, _NormBase))
    return node.target in (operator.add, torch.add, torch.cat) or node.target == "add"


def _is_layer(network: nn.Module, node: fx.Node) -> bool:
    return node.op == "call_module" and isinstance(network.get_submodule(str(node.target)), LAYERS)
