"""What is equal but for rounding is ranked by its index."""

from __future__ import annotations

import random

import pytest
import torch

from ghostify.analysis.select import alike_pairs, intrinsic_order, sources_of
from ghostify.numerics.ranking import (
    ascending,
    descending,
    exceeds,
    first_largest,
    first_smallest,
    ranked,
)
from ghostify.warmstart.allocation.budget import Option, allocate
from ghostify.warmstart.c_ghost.pairing import pair
from ghostify.warmstart.g_ghost.channels import eliminate

SHAKES = [1 + 1e-8 * step for step in (-3, -1, 0, 2, 3)]


def shaken(values: torch.Tensor, seed: int) -> torch.Tensor:
    """Values with other last digits."""
    generator = torch.Generator().manual_seed(seed)
    return values * (1 + 1e-9 * torch.randn(values.shape, generator=generator).to(values))


def symmetric(values: torch.Tensor) -> torch.Tensor:
    return (values + values.T) / 2


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_by_index_whatever_the_last_digits(seed):
    tied = shaken(torch.tensor([2.0, 1.0, 1.0, 2.0, 0.0], dtype=torch.float64), seed)
    assert ascending(tied).tolist() == [4, 1, 2, 0, 3]
    assert descending(tied).tolist() == [0, 3, 1, 2, 4]
    assert (int(first_largest(tied)), int(first_smallest(tied[:4]))) == (0, 1)
    assert ranked("abcde", lambda name: float(tied["abcde".index(name)])) == list("adbce")


def test_what_differs_is_sorted_as_ever():
    values = torch.rand(5000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    order = ascending(values)
    assert sorted(order.tolist()) == list(range(5000))
    passed = values[order][:-1] - values[order][1:]
    assert float(passed.max()) < 2e-6
    assert torch.equal(ascending(values[:50]), values[:50].argsort())


def test_long_runs_of_close_values_are_cut():
    """A value doesn't pass another by more than the noise, however many lie between them."""
    values = torch.linspace(2, 1, 1_000_001, dtype=torch.float64)
    found = values[ascending(values)]
    assert float((found.cummax(0).values - found).max()) < 5e-6


def test_values_that_are_not_finite_come_last():
    values = torch.tensor([float("inf"), 1.0, float("-inf"), float("inf")])
    assert ascending(values).tolist() == [2, 1, 0, 3]
    assert exceeds(float("inf"), 1.0) and not exceeds(float("inf"), float("inf"))
    assert int(first_smallest(values)) == 2 and int(first_largest(values)) == 0
    assert ascending(torch.empty(0)).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_an_analysis_chooses_the_same_of_equal_channels(seed):
    tied = torch.full((6, 6), 0.5, dtype=torch.float64)
    tied[0, 1] = tied[1, 0] = tied[2, 3] = tied[3, 2] = -1.0
    tied.fill_diagonal_(1)
    noisy = symmetric(shaken(tied, seed))
    assert alike_pairs(noisy, 3) == [(0, 1), (2, 3), (4, 5)]
    assert intrinsic_order(noisy, 4) == intrinsic_order(tied, 4) == [0, 2, 4, 5]
    assert sources_of(noisy, [0, 2]) == sources_of(tied, [0, 2])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("maps", "m", "copies"), [(8, 4, 1), (16, 8, 1), (18, 6, 2)])
def test_pairing_chooses_the_same_of_equal_costs(seed, maps, m, copies):
    chance = random.Random(maps)
    costs = torch.tensor(
        [[float(chance.choice([1, 2, 3])) * (i != j) for i in range(maps)] for j in range(maps)],
        dtype=torch.float64,
    )
    found, wanted = pair(shaken(costs, seed), m, copies), pair(costs, m, copies)
    assert torch.equal(found.intrinsic, wanted.intrinsic)
    assert torch.equal(found.ghosts, wanted.ghosts)


@pytest.mark.parametrize("seed", range(5))
def test_equal_channels_are_taken_away_by_index(seed):
    gram, weight = torch.eye(6).double(), torch.ones(2, 6).double()
    assert eliminate(shaken(gram, seed), shaken(weight, seed), 6, 3).tolist() == [3, 4, 5]


@pytest.mark.parametrize("shake", SHAKES)
def test_of_equal_allocations_the_first_is_taken(shake):
    layers = {name: [Option(1, 10, 0.0), Option(2, 5, 1.0)] for name in "ab"}
    wanted = allocate(layers, 15)
    layers["b"][1] = Option(2, 5, shake)
    assert allocate(layers, 15) == wanted
