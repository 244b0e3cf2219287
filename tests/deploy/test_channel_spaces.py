"""Spaces of channels: whatever order they get, the network gives the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ghostify
from ghostify.deploy.channel_spaces import find_spaces
from ghostify.deploy.fusing import Reordering
from ghostify.graph.trace import trace_graph
from tests.deploy.test_fusing import Sum, alive, difference


@pytest.mark.parametrize(
    ("name", "size", "least"),
    [
        ("resnet50", 64, 36),
        ("mobilenet_v3_small", 64, 20),
        ("efficientnet_b0", 64, 20),
        ("densenet121", 64, 100),
        ("googlenet", 64, 50),
        ("vgg11_bn", 64, 8),
    ],
)
def test_any_order_of_the_spaces_leaves_the_outputs(name: str, size: int, least: int) -> None:
    network = alive(ghostify.build(name, {"init_weights": True} if name == "googlenet" else {}))
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = network(x)
    spaces = find_spaces(trace_graph(network), network)
    generator = torch.Generator().manual_seed(4)
    orders = {
        number: torch.arange(space.size)
        if space.is_pinned
        else torch.randperm(space.size, generator=generator)
        for number, space in spaces.spaces.items()
    }
    assert sum(not space.is_pinned for space in spaces.spaces.values()) >= least
    Reordering(spaces, orders).apply(network)
    with torch.no_grad():
        after = network(x)
    assert (before - after).abs().max() < 1e-4 * before.abs().max()


def test_what_is_summed_is_one_space_with_both_writers() -> None:
    network = Sum().eval()
    spaces = find_spaces(trace_graph(network), network)
    writers = [set(space.writers) for space in spaces.spaces.values()]
    assert {network.one[0], network.two[0]} in writers
    (summed,) = (s for s in spaces.spaces.values() if network.one[0] in s.writers)
    assert not summed.is_pinned
    (given,) = (s for s in spaces.spaces.values() if network.last in s.writers)
    assert given.is_pinned  # the caller knows its channels by their places


def test_the_order_of_a_read_value_reaches_a_fully_connected_layer() -> None:
    network = alive(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    )
    x = torch.randn(2, 3, 6, 6)
    before = network(x)
    spaces = find_spaces(trace_graph(network), network)
    orders = {n: torch.arange(s.size).flip(0) if not s.is_pinned else torch.arange(s.size)
              for n, s in spaces.spaces.items()}  # fmt: skip
    first = network[0].weight.clone()
    Reordering(spaces, orders).apply(network)
    assert torch.equal(network[0].weight, first.flip(0))
    assert torch.allclose(network(x), before, atol=1e-5)
    assert difference(network, network, x) == 0
