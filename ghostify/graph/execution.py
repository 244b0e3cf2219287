"""The one executor of graphs: runs all or some nodes, in any module of the same graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

Env = dict[fx.Node, Any]
"""Values of nodes."""

Take = Callable[[fx.Node, Any], Any]
"""What is wanted of a node's value."""

_IN_PLACE = frozenset({operator.iadd, operator.isub, operator.imul, operator.itruediv})


class Executor(fx.Interpreter):
    """Runs nodes of a graph in a module, which need not be the one that was traced.

    Args:
        graph: The graph.
        module: Any module that has what the graph names: submodules, parameters, buffers.
        *args: What the graph's placeholders give, in order; without them, their defaults.
    """

    def __init__(self, graph: fx.Graph, module: nn.Module, *args: Any) -> None:
        # The interpreter lists all submodules of its module, which it never reads: for a segment
        # of a few nodes that would take as long as to run it.
        super().__init__(nn.Module(), garbage_collect_values=False, graph=graph)
        self.module = module
        self.args_iter = iter(args)

    def apply(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        """Do what a node does on given arguments instead of its own."""
        return getattr(self, node.op)(node.target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        """A node's value, from those it takes; without the notes for tracers, which take longer."""
        return self.apply(n, *self.fetch_args_kwargs_from_env(n))

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The next argument, or the default; None where there is neither."""
        return super().placeholder(target, args or (None,), kwargs)

    def values(
        self,
        nodes: Iterable[fx.Node],
        wanted: Collection[fx.Node],
        given: Mapping[fx.Node, Any],
        take: Take | None = None,
    ) -> Env:
        """Work out the values of some nodes, as they are before anything changes them in place.

        Only what they are made from runs, nothing after the last of them, and a value is freed
        after its last use.

        Args:
            nodes: The nodes that may run, in the graph's order.
            wanted: Those whose values are returned; some may be among the given ones.
            given: Values to start from; what is done in place changes them.
            take: What is returned of a wanted node's value, instead of all of it; it is asked
                before anything changes the value, and must not give back a part of it.

        Returns:
            The values of the wanted nodes.

        Raises:
            RuntimeError: A node needs a value that is neither given nor worked out; and whatever a
                node raises, as it comes.
        """
        work = self._work(nodes, wanted)
        last_use = {used: node for node in work for used in node.all_input_nodes}
        self.env = dict(given)
        if take is not None:
            found = {n: take(n, value) for n, value in given.items() if n in wanted}
        else:
            found = {n: own(value) if work else value for n, value in given.items() if n in wanted}
        for node in work:
            value = self.env[node] = self.run_node(node)
            if node in wanted and take is not None:
                found[node] = take(node, value)
            elif node in wanted:
                found[node] = value if node is work[-1] else own(value)
            for used in node.all_input_nodes:
                if last_use[used] is node:
                    self.env.pop(used, None)
        return found

    def _work(self, nodes: Iterable[fx.Node], wanted: Collection[fx.Node]) -> list[fx.Node]:
        """What must run for some nodes' values, in order."""
        order = list(nodes)
        while order and order[-1] not in wanted:
            order.pop()
        # Nobody reads the result of a node without users: it is there for what it does in place.
        # All placeholders run, as each takes the next argument.
        always = [node for node in order if not node.users or node.op == "placeholder"]
        needed = made_from([*wanted, *always], order)
        while True:
            untouched = set(order) - needed
            left = [node for node in order if node in untouched and self.changes_input(node)]
            more = [node for node in left if not untouched.issuperset(node.all_input_nodes[:1])]
            if not more:
                return [node for node in order if node in needed]
            needed |= made_from(more, order)

    def changes_input(self, node: fx.Node) -> bool:
        """Whether a node changes its first input in place."""
        if node.op == "call_module":
            return bool(getattr(self.fetch_attr(str(node.target)), "inplace", False))
        target: Any = node.target
        name = target if isinstance(target, str) else getattr(target, "__name__", "")
        is_named_so = node.op != "get_attr" and name.endswith("_") and not name.endswith("__")
        return bool(node.kwargs.get("inplace")) or is_named_so or target in _IN_PLACE


def propagate(graph: fx.Graph, module: nn.Module, args: Sequence[Any]) -> Env:
    """Run a graph on the meta device; what comes after a node that can't be run has no value.

    Args:
        graph: A graph of ``module``.
        module: The module, its tensors on the meta device.
        args: Positional arguments of its forward; the others are taken from the graph's defaults.

    Returns:
        The values, their tensors without data.
    """
    executor = Executor(graph, module, *map(to_meta, args))
    with torch.no_grad(), suppress(Exception):
        for node in graph.nodes:
            executor.env[node] = executor.run_node(node)
    return executor.env


def made_from(wanted: Iterable[fx.Node], inside: Iterable[fx.Node]) -> set[fx.Node]:
    """Some nodes, and all that they are made from, as far as they are ``inside``."""
    seen: set[fx.Node] = set()
    allowed, waiting = set(inside), list(wanted)
    while waiting:
        node = waiting.pop()
        if node in allowed and node not in seen:
            seen.add(node)
            waiting.extend(node.all_input_nodes)
    return seen


def own(value: Any) -> Any:
    """A copy, which what is done in place later can't change."""
    return value.clone() if isinstance(value, Tensor) else value


def to_meta(value: Any) -> Any:
    """A value with its tensors, at any depth, on the meta device."""

    def meta(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.device.type != "meta":
            return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
        return leaf

    return pytree.tree_map(meta, value)
