"""What the original's layers make: looked at once, however many layers a segment has."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.data.spool import Spool
from ghostify.graph.segments import split
from ghostify.warmstart.c_ghost.layers import LayerPair, find_layer_pairs
from ghostify.warmstart.c_ghost.lessons import Lessons
from ghostify.warmstart.fit.sampling import MapSampler, PairedInputs

IMAGES, HELD_OUT = 160, 20


class Block(nn.Module):
    """Two convolutions beside a shortcut, then a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = torch.relu_(self.bn2(self.conv2(out)) + x)
        return self.fc(out.mean((2, 3)))


def lessons_of(network: Block) -> tuple[Lessons, PairedInputs, list[LayerPair]]:
    converted = ghostify.convert(network, s=2, input_size=(8, 12, 12), keep=())
    segment = split(network, lambda name: name == "conv1")[0]
    spool = Spool()
    spool.append(torch.randn(IMAGES, 8, 12, 12))
    inputs = PairedInputs(spool, spool, 32, 0, HELD_OUT)
    layers = list(find_layer_pairs(segment, network, converted, converted))
    return Lessons(segment, network, inputs, layers, keeps_output=True), inputs, layers


@torch.no_grad()
def test_targets_are_what_the_layer_makes_at_these_places() -> None:
    network = Block().eval()
    lessons, inputs, layers = lessons_of(network)
    seen: dict[nn.Module, Tensor] = {}
    for layer in (network.conv1, network.conv2):
        layer.register_forward_hook(lambda module, _, out: seen.update({module: out}))
    for pair, held_out in itertools.product(layers[:2], (False, True)):
        lesson = lessons.of(pair, held_out)
        assert lesson is not None and lesson.spots
        for spot in lesson.spots:
            x = inputs.teacher.slice(spot.given)
            network(x)
            wanted = seen[pair.teacher][(..., *spot.places)].transpose(1, 2)
            torch.testing.assert_close(lesson.targets.slice(spot.kept), wanted)
            if pair.name == "conv2":
                beside = x[(..., *spot.places)].transpose(1, 2)
                torch.testing.assert_close(lesson.others.slice(spot.kept), beside)


@torch.no_grad()
def test_the_original_runs_once_on_each_sample() -> None:
    network = Block().eval()
    counts: list[int] = []

    def note(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].device.type != "meta":
            counts.append(len(args[0]))

    network.conv2.register_forward_pre_hook(note)
    lessons_of(network)
    assert sum(counts) == IMAGES


@torch.no_grad()
def test_the_output_is_kept_in_the_samples_order() -> None:
    network = Block().eval()
    lessons, inputs, _ = lessons_of(network)
    made = lessons.output.slice((0, IMAGES))
    wanted = lessons.segment.run(network, inputs.teacher.slice((0, IMAGES)))
    torch.testing.assert_close(made, wanted)


def test_of_large_maps_some_images_are_looked_at_and_of_small_ones_all() -> None:
    sampler = MapSampler(1000, 20_000, seed=0)
    count, places = sampler.some((100, 8, 64, 64))
    assert count < 100 and len(places[0]) * count * 10 >= 20_000
    count, places = sampler.some((100, 8, 4, 4))
    assert count == 100 and len(places[0]) == 16


def test_a_classifier_makes_up_for_what_came_before_it() -> None:
    torch.manual_seed(0)
    network = Block().eval()
    x, fresh = torch.randn(400, 8, 8, 8), torch.randn(200, 8, 8, 8)
    fitted = ghostify.convert(network, s=2, keep=(), calibration=x)
    with torch.no_grad():
        wanted, made = network(fresh), fitted(fresh)
        again = fitted.fc.weight.clone()
        fitted.fc.weight.copy_(network.fc.weight)
        bias = fitted.fc.bias.clone()
        fitted.fc.bias.copy_(network.fc.bias)
        before = fitted(fresh)
    assert not torch.equal(again, network.fc.weight) and not torch.equal(bias, network.fc.bias)
    assert (made - wanted).square().sum() < (before - wanted).square().sum()


class Tokens(nn.Module):
    """A linear layer that runs at each place of the maps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.fc = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).flatten(2).transpose(1, 2))


class Flat(Tokens):
    """All places of all samples as rows of one matrix."""

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.conv(x).movedim(1, -1).flatten(0, 2))


@pytest.mark.parametrize("kind", [Tokens, Flat])
def test_linear_layers_at_several_places_stay_as_they_are(kind: type[Tokens]) -> None:
    network = kind().eval()
    fitted = ghostify.convert(network, s=2, keep=(), calibration=torch.randn(64, 8, 6, 6))
    assert isinstance(fitted.conv, ghostify.GhostConv2d)
    assert torch.equal(fitted.fc.weight, network.fc.weight)
