"""Segments give what the network gives, and work out only what is asked for."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
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


class Sized(nn.Module):
    """Asks for the size of its input, and gives maps of that size, as segmentation networks do."""

    def __init__(
        self, asks: Callable[[Tensor], Any], uses: Callable[[Tensor, Any], Tensor]
    ) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 4, 3, 2)
        self.third = nn.Conv2d(4, 2, 1)
        self.asks, self.uses = asks, uses

    def forward(self, x: Tensor) -> Tensor:
        asked = self.asks(x)
        return self.uses(self.third(self.second(self.first(x))), asked)


def to_size(y: Tensor, size: Any) -> Tensor:
    return F.interpolate(y, size=size)


SIZED = {
    "the last two": Sized(lambda x: x.shape[-2:], to_size),
    "one by one": Sized(lambda x: (x.size(2), x.size(3)), to_size),
    "twice the size": Sized(lambda x: (2 * x.shape[2], x.shape[3] * 2), to_size),
    "at the end": Sized(lambda x: x, lambda y, x: F.interpolate(y, size=x.shape[2:])),
}


@pytest.mark.parametrize("network", SIZED.values(), ids=SIZED)
def test_a_size_that_all_inputs_have_does_not_pass_by(network: nn.Module) -> None:
    samples = [torch.randn(count, 3, 17, 19) for count in (1, 2)]
    segments = split(network.eval(), lambda name: True, None, samples)
    assert [segment.layers for segment in segments] == [("first",), ("second",), ("third",)]
    x = torch.randn(5, 3, 17, 19)
    value = x
    for segment in segments:
        value = segment.run(network, value)
    assert torch.equal(value, network(x))


def test_without_samples_sizes_may_differ() -> None:
    network = SIZED["the last two"].eval()
    (segment,) = split(network, lambda name: True)
    for size in (17, 23):
        x = torch.randn(2, 3, size, size)
        assert torch.equal(segment.run(network, x), network(x))


def test_the_number_of_samples_is_asked_for_each_time() -> None:
    network = Sized(lambda x: x.shape[0], lambda y, count: y.reshape(count, -1)).eval()
    samples = [torch.randn(count, 3, 17, 19) for count in (1, 2)]
    (segment,) = split(network, lambda name: True, None, samples)
    x = torch.randn(5, 3, 17, 19)
    assert torch.equal(segment.run(network, x), network(x))
