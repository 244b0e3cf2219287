"""Which maps are intrinsic, and which one each ghost comes from."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostify.warmstart.c_ghost.pairing import Pairing, pair


def cheapest(costs: torch.Tensor, m: int, copies: int) -> float:
    """The least cost of all choices, all of them tried."""
    n = len(costs)
    best = float("inf")
    for intrinsic in itertools.combinations(range(n), m):
        ghosts = [j for j in range(n) if j not in intrinsic]
        for owners in itertools.product(intrinsic, repeat=len(ghosts)):
            if all(owners.count(i) <= copies for i in intrinsic):
                cost = sum(float(costs[i, j]) for i, j in zip(owners, ghosts, strict=True))
                best = min(best, cost)
    return best


def random_costs(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cost_of(found: Pairing, costs: torch.Tensor) -> float:
    made = found.ghosts >= 0
    rows = found.intrinsic[:, None].expand_as(found.ghosts)
    return float(costs[rows[made], found.ghosts[made]].sum())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), half=st.integers(1, 3))
def test_pairs_of_few_maps_are_the_best_of_all_choices(seed: int, half: int) -> None:
    costs = random_costs(2 * half, seed)
    assert pair(costs, half, 1).cost == pytest.approx(cheapest(costs, half, 1))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(2, 40), s=st.integers(2, 5))
def test_every_map_is_made_once_and_no_intrinsic_map_has_too_many_ghosts(
    seed: int, n: int, s: int
) -> None:
    costs, m = random_costs(n, seed), -(-n // s)
    found = pair(costs, m, s - 1)
    made = torch.cat([found.intrinsic, found.ghosts.flatten()])
    assert sorted(made[made >= 0].tolist()) == list(range(n))
    assert len(found.intrinsic) == m
    assert found.cost == pytest.approx(cost_of(found, costs))


def test_triples_cost_little_more_than_the_best_of_all_choices() -> None:
    tables = [random_costs(6, seed) for seed in range(12)]
    found, best = (sum(f(t, 2, 2) for t in tables) for f in (lambda *a: pair(*a).cost, cheapest))
    assert best <= found <= 1.25 * best


def test_pairs_that_cost_nothing_are_found_among_many() -> None:
    costs = random_costs(64, 0) + 1
    partner = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    costs[partner[:32], partner[32:]] = 0
    assert pair(costs, 32, 1).cost == 0


def test_order_says_where_each_map_is_in_the_concat() -> None:
    found = Pairing(torch.tensor([3, 0]), torch.tensor([[1], [2]]), 0.0)
    concat = torch.tensor([3, 0, 1, 2])
    assert concat[found.order()].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("n", "m", "copies"), [(20, 16, 1), (27, 12, 2), (34, 16, 3)])
def test_there_are_as_many_intrinsic_maps_as_asked_for(n: int, m: int, copies: int) -> None:
    costs = random_costs(n, 0)
    found = pair(costs, m, copies)
    assert len(found.intrinsic) == m and int((found.ghosts >= 0).sum()) == n - m
    assert len(found.order()) == n and cost_of(found, costs) == pytest.approx(found.cost)
