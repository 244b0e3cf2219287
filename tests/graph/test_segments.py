"""Segments give what the network gives, and work out only what is asked for."""

import torch
from torch import Tensor, nn

from ghostify.graph.segments import split


class Counting(nn.Conv2d):
    """A convolution that counts its calls."""

    calls = 0

    def forward(self, input: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(input)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = Counting(4, 4, 3, padding=1), Counting(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu_(self.conv2(torch.relu_(self.conv1(x))) + x)


class InPlace(nn.Module):
    """What the layer reads is changed by an operation whose result nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x * 1
        x.relu_()
        return self.conv(x) + x


def chain(network: nn.Module, names: set[str]):
    return split(network.eval(), lambda name: name in names)


def test_segments_in_a_row_are_the_network() -> None:
    network = nn.Sequential(Block(), Block(), nn.Conv2d(4, 2, 1))
    segments = chain(network, {"0.conv1", "1.conv2"})
    x = torch.randn(2, 4, 6, 6)
    value = x.clone()
    for segment in segments:
        value = segment.run(network, value)
    assert len(segments) > 1
    assert torch.equal(value, network(x.clone()))


def test_nothing_after_the_wanted_layer_runs() -> None:
    network = nn.Sequential(Block())
    (segment,) = chain(network, {"0.conv1", "0.conv2"})
    wanted = next(node for node in segment.nodes if node.target == "0.conv1")
    found = segment.values(network, x := torch.randn(1, 4, 6, 6), (wanted,))
    assert network[0].conv1.calls == 1
    assert network[0].conv2.calls == 0
    assert torch.equal(found[wanted], nn.Conv2d.forward(network[0].conv1, x))


def test_what_is_done_in_place_later_does_not_change_a_wanted_value() -> None:
    network = nn.Sequential(Block())
    (segment,) = chain(network, {"0.conv1", "0.conv2"})
    first, last = (next(n for n in segment.nodes if n.target == f"0.conv{i}") for i in (1, 2))
    x = torch.randn(1, 4, 6, 6)
    found = segment.values(network, x, (first, last))
    assert torch.equal(found[first], nn.Conv2d.forward(network[0].conv1, x))
    assert (found[first] < 0).any()


def test_an_operation_in_place_counts_though_nobody_reads_its_result() -> None:
    network = nn.Sequential(InPlace())
    (segment,) = chain(network, {"0.conv"})
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(segment.run(network, x), network(x))
