"""Nodes of a graph run alone, in the network that was traced or in another of the same graph."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from ghostify.graph.execution import Executor, propagate


class Net(nn.Module):
    """Two branches, a parameter that the code reads, and a change in place at the end."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.left, self.right = nn.Linear(4, 4), nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.randn(4))

    def forward(self, x: Tensor, scale: float = 2.0) -> Tensor:
        left = self.left(x) * self.gain
        return torch.relu_(left + self.right(x) * scale)


def graph_and_nodes() -> tuple[fx.Graph, dict[str, fx.Node]]:
    graph = fx.Tracer().trace(Net())
    return graph, {node.name: node for node in graph.nodes}


def test_a_graph_runs_in_another_network_than_the_one_traced() -> None:
    graph, nodes = graph_and_nodes()
    other, x = Net(seed=1), torch.randn(2, 4)
    found = Executor(graph, other, x).values(graph.nodes, {nodes["output"]}, {})
    assert torch.equal(found[nodes["output"]], other(x))


def test_only_what_the_wanted_nodes_are_made_from_runs() -> None:
    graph, nodes = graph_and_nodes()
    network, x = Net(), torch.randn(2, 4)
    network.right = nn.Linear(3, 3)  # fails where it is called
    found = Executor(graph, network, x).values(graph.nodes, {nodes["mul"]}, {})
    assert found.keys() == {nodes["mul"]}
    assert torch.equal(found[nodes["mul"]], network.left(x) * network.gain)


def test_given_values_stand_for_what_comes_before_them() -> None:
    graph, nodes = graph_and_nodes()
    left = torch.randn(2, 4)
    after = [node for node in graph.nodes if node.name in ("gain", "mul")]
    found = Executor(graph, Net()).values(after, {nodes["mul"]}, {nodes["left"]: left})
    assert torch.equal(found[nodes["mul"]], left * Net().gain)


def test_wanted_values_are_those_before_a_change_in_place() -> None:
    graph, nodes = graph_and_nodes()
    network, x = Net(), torch.randn(8, 4)
    wanted = {nodes["add"], nodes["relu_"]}
    found = Executor(graph, network, x).values(graph.nodes, wanted, {})
    assert (found[nodes["add"]] < 0).any()
    assert torch.equal(found[nodes["add"]].relu(), found[nodes["relu_"]])


@pytest.mark.parametrize(
    "act",
    [nn.ReLU(inplace=True), torch.relu_, lambda x: F.relu(x, inplace=True), lambda x: x.mul_(2)],
    ids=["module", "function", "keyword", "method"],
)
def test_a_change_in_place_counts_though_its_result_is_for_others(act) -> None:
    class Changed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.left, self.right = act, nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x * 1
            y = self.act(x)
            return self.right(x) + self.left(y)

    network, x = Changed(), torch.randn(2, 4)
    graph = fx.Tracer().trace(network)
    right = next(node for node in graph.nodes if node.target == "right")
    found = Executor(graph, network, x).values(graph.nodes, {right}, {})
    assert torch.equal(found[right], network.right(act(x.clone())))


def test_values_are_freed_after_their_last_use() -> None:
    graph, nodes = graph_and_nodes()
    executor = Executor(graph, Net(), torch.randn(2, 4))
    executor.values(graph.nodes, {nodes["relu_"]}, {})
    assert executor.env.keys() == {nodes["relu_"]}


def test_a_missing_value_is_an_error_that_names_the_node() -> None:
    graph, nodes = graph_and_nodes()
    with pytest.raises(RuntimeError, match="nonexistent value left"):
        Executor(graph, Net()).values([nodes["gain"], nodes["mul"]], {nodes["mul"]}, {})


def test_shapes_are_known_up_to_the_node_that_can_not_be_run() -> None:
    graph, nodes = graph_and_nodes()
    network = Net().to("meta")
    known = propagate(graph, network, (torch.randn(2, 4),))
    assert known[nodes["output"]].shape == (2, 4) and known[nodes["output"]].is_meta
    network.right = nn.Linear(3, 3, device="meta")
    known = propagate(graph, network, (torch.randn(2, 4),))
    assert nodes["mul"] in known and nodes["right"] not in known
