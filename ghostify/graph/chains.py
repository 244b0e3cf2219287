"""Where one tensor alone crosses a graph: the chains of segments with one entry and one exit.

A node *dominates* another when every way from the graph's inputs to the other leads through it. The
tree of nearest dominators falls into chains; from one node of a chain to the next, one tensor goes
in and one comes out, however many branches lie between (a residual block, an Inception module).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from torch import fx

_Branch = tuple[fx.Node | None, list[fx.Node]]
"""Nodes that one node is the nearest dominator of."""


@dataclass(frozen=True)
class ChainLink:
    """The nodes between two neighbours on a chain.

    Attributes:
        entry: The node whose value alone goes in; it is no part of the segment.
        exit: The node whose value comes out.
        nodes: All nodes of the segment, the exit last, in graph order.
        sealed: Whether nothing but the exit is used outside.
    """

    entry: fx.Node
    exit: fx.Node
    nodes: tuple[fx.Node, ...]
    sealed: bool


def depends_on_input(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose value depends on an input, so all but what is made of parameters alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder" or not found.isdisjoint(node.all_input_nodes):
            found.add(node)
    return found


def on_the_way(graph: fx.Graph) -> set[fx.Node]:
    """The nodes between the graph's inputs and its output: what nothing uses is left out too."""
    to_output: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        if node.op == "output" or not to_output.isdisjoint(node.users):
            to_output.add(node)
    return depends_on_input(graph) & to_output


def find_chains(graph: fx.Graph) -> list[list[ChainLink]]:
    """The chains of a graph, outer ones before those inside their segments.

    Every node that depends on an input lies in a segment of the chains; a node inside a segment of
    one chain may lie in a segment of an inner one too.
    """
    tree = _DominatorTree(graph)
    chains = []
    waiting: list[_Branch] = [(None, list(tree.roots))]
    while waiting:
        start, children = waiting.pop(0)
        for group in _by_exit(children, tree):
            path, aside = _follow(start, group, tree)
            waiting.extend(aside)
            segments = [_segment(a, b, tree) for a, b in pairwise(path)]
            if segments:
                chains.append(segments)
    return chains


class _DominatorTree:
    """Nearest dominators of the nodes between inputs and output.

    Attributes:
        order: Position of each such node in the graph.
        children: The nodes that a node is the nearest dominator of.
        roots: The nodes that none dominates (inputs, and what merges several of them).
        feeds: For a node, its siblings in the tree whose subtrees feed it.
    """

    def __init__(self, graph: fx.Graph) -> None:
        self.order: dict[fx.Node, int] = {}
        self.children: dict[fx.Node | None, list[fx.Node]] = {None: []}
        self._parent: dict[fx.Node, fx.Node | None] = {}
        self._depth: dict[fx.Node | None, int] = {None: 0}
        relevant = on_the_way(graph)
        for index, node in enumerate(graph.nodes):
            if node in relevant:
                self._add(node, index, self.inputs_of(node))
        self.feeds = self._find_feeds()
        self.layers = self._weigh()

    @property
    def roots(self) -> list[fx.Node]:
        """The nodes that no node dominates."""
        return self.children[None]

    def inputs_of(self, node: fx.Node) -> list[fx.Node]:
        """The inputs of a node that depend on an input of the graph (constants left out)."""
        return [other for other in node.all_input_nodes if other in self.order]

    def _add(self, node: fx.Node, index: int, inputs: list[fx.Node]) -> None:
        parent: fx.Node | None = inputs[0] if inputs else None
        for other in inputs[1:]:
            parent = self._meet(parent, other)
        self.order[node] = index
        self._parent[node] = parent
        self._depth[node] = self._depth[parent] + 1
        self.children.setdefault(node, [])
        self.children[parent].append(node)

    def _meet(self, a: fx.Node | None, b: fx.Node | None) -> fx.Node | None:
        """The nearest node that dominates both."""
        while a is not b:
            if self._depth[a] < self._depth[b]:
                a, b = b, a
            a = self._parent[a] if a is not None else None
        return a

    def _find_feeds(self) -> dict[fx.Node, set[fx.Node]]:
        feeds: dict[fx.Node, set[fx.Node]] = {}
        for node, parent in self._parent.items():
            for other in self.inputs_of(node):
                if other is not parent:
                    feeds.setdefault(node, set()).add(self._sibling(other, parent))
        return feeds

    def _sibling(self, node: fx.Node, parent: fx.Node | None) -> fx.Node:
        """The child of ``parent`` in whose subtree ``node`` is."""
        above = self._parent[node]
        while above is not parent:
            assert above is not None
            node, above = above, self._parent[above]
        return node

    def _weigh(self) -> dict[fx.Node, int]:
        """How many module calls each subtree holds."""
        weight = dict.fromkeys(self.order, 0)
        for node in reversed(list(self.order)):
            weight[node] += node.op == "call_module"
            parent = self._parent[node]
            if parent is not None:
                weight[parent] += weight[node]
        return weight


def _by_exit(children: list[fx.Node], tree: _DominatorTree) -> Iterator[list[fx.Node]]:
    """Siblings of the tree in groups: one that feeds no other, with those that feed only it.

    The heaviest comes first, and takes what feeds several.
    """
    left = set(children)
    fed = {child: tree.feeds.get(child, set()) for child in children}
    while left:
        feeding = {c for child in left for c in fed[child] & left}
        last = [child for child in children if child in left and child not in feeding]
        groups = [_behind(child, fed, left, tree.order) for child in last]
        heaviest = max(groups, key=lambda group: sum(tree.layers[c] for c in group))
        left -= set(heaviest)
        yield heaviest


def _behind(
    child: fx.Node,
    fed: dict[fx.Node, set[fx.Node]],
    left: set[fx.Node],
    order: dict[fx.Node, int],
) -> list[fx.Node]:
    """A node and all its siblings that feed it, directly or not; the node first."""
    found = [child]
    seen = {child}
    for node in found:
        fresh = fed[node] & left - seen
        seen |= fresh
        found += fresh
    # Sorted: what is found must not depend on the order of a set.
    return [child, *sorted(found[1:], key=order.__getitem__)]


def _follow(
    start: fx.Node | None, group: list[fx.Node], tree: _DominatorTree
) -> tuple[list[fx.Node], list[_Branch]]:
    """A chain from ``start`` through the first of ``group``, and what branches off on the way."""
    path = [] if start is None else [start]
    aside: list[_Branch] = []
    above, here = start, group
    while here:
        node, inner = here[0], here[1:]
        if inner:
            aside.append((above, inner))
        path.append(node)
        above = node
        groups = list(_by_exit(tree.children[node], tree))
        here = groups[0] if groups else []
        aside.extend((node, other) for other in groups[1:])
    return path, aside


def _segment(entry: fx.Node, exit_: fx.Node, tree: _DominatorTree) -> ChainLink:
    inside = {exit_}
    waiting = [exit_]
    while waiting:
        for node in tree.inputs_of(waiting.pop()):
            if node is not entry and node not in inside:
                inside.add(node)
                waiting.append(node)
    nodes = tuple(sorted(inside, key=tree.order.__getitem__))
    used = {user for node in nodes if node is not exit_ for user in node.users}
    outside = (used - inside).intersection(tree.order)
    return ChainLink(entry, exit_, nodes, sealed=not outside)
