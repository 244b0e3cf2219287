"""Chains against a slow reference: cut the graph at a node, and see what is still reached."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import fx

from ghostify.graph.chains import find_chains, on_the_way


def _random_graph(draws):
    """A graph of additions: each node adds two of those before it; the last is given back."""
    graph = fx.Graph()
    nodes = [graph.placeholder("x")]
    for a, b in draws:
        one, other = nodes[a % len(nodes)], nodes[b % len(nodes)]
        nodes.append(graph.call_function(torch.add, (one, other)))
    graph.output(nodes[-1])
    return graph


def _reaches(graph, start, goal, without):
    """Whether a way leads from ``start`` to ``goal`` that avoids ``without``."""
    waiting, seen = [start], {start}
    while waiting:
        for user in waiting.pop().users:
            if user not in seen and user is not without:
                seen.add(user)
                waiting.append(user)
    return goal in seen


_graphs = st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12).map(
    _random_graph
)


@given(_graphs)
@settings(max_examples=60, deadline=None)
def test_the_first_chain_is_the_nodes_that_every_way_to_the_output_leads_through(graph):
    nodes = list(graph.nodes)
    start, end = nodes[0], nodes[-1]
    through = [n for n in nodes[1:-1] if not _reaches(graph, start, end, without=n)]
    first = find_chains(graph)[0]
    assert [segment.exit for segment in first] == [*through, end]


@given(_graphs)
@settings(max_examples=60, deadline=None)
def test_a_segment_takes_in_nothing_but_its_entry(graph):
    for chain in find_chains(graph):
        for segment in chain:
            inside = set(segment.nodes)
            for node in segment.nodes:
                assert all(n in inside or n is segment.entry for n in node.all_input_nodes)


@given(_graphs)
@settings(max_examples=60, deadline=None)
def test_a_segment_is_sealed_where_only_its_exit_is_used_outside(graph):
    relevant = on_the_way(graph)
    for chain in find_chains(graph):
        for segment in chain:
            inside = set(segment.nodes)
            users = {u for n in segment.nodes if n is not segment.exit for u in n.users}
            assert segment.sealed == (users & relevant <= inside)


def test_features_that_are_given_out_on_the_way_do_not_break_the_chain_between_them():
    class Backbone(torch.nn.Module):
        def forward(self, x):
            a = torch.relu(x)
            b = torch.sigmoid(a) + a
            c = torch.tanh(b) + b
            return a, b, c

    graph = fx.Tracer().trace(Backbone())
    exits = {s.exit.name for chain in find_chains(graph) for s in chain if s.sealed}
    assert {"relu", "add", "add_1"} <= exits
