"""Which channels are complicated, and which stay inside: against plain least squares."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghostify.warmstart.fit.statistics import RegressionMoments
from ghostify.warmstart.g_ghost.channels import eliminate, worst_explained


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def moments_of(x: Tensor, y: Tensor) -> RegressionMoments:
    moments = RegressionMoments(1, x.shape[1], y.shape[1])
    moments.add(x[None], y[None])
    return moments


def left_by_lstsq(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    return (y - x @ torch.linalg.lstsq(x, y).solution).square().sum(0)


@given(shuffled=st.permutations(range(8)), complicated=st.integers(1, 7), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_channels_that_are_linear_functions_of_y1_are_ghosts(
    shuffled: list[int], complicated: int, seed: int
) -> None:
    x = noise(200, 8, seed=seed)
    y = x @ noise(8, 8, seed=seed + 1)
    own = torch.tensor(shuffled[:complicated])
    y[:, own] += 3 * noise(200, complicated, seed=seed + 2)
    found = worst_explained(moments_of(x, y), 1, complicated, "project")
    assert found.tolist() == sorted(shuffled[:complicated])


def test_with_a_slice_the_ghosts_are_made_of_ghost_channels_alone() -> None:
    # Channel 0 copies channel 3, and 1 copies 2: whole pairs must be ghosts. 4 and 5 are noise.
    x = noise(500, 6)
    y = torch.stack([x[:, 3], x[:, 2], x[:, 2], x[:, 3], *noise(2, 500, seed=1)], 1)
    found = worst_explained(moments_of(x, y), 1, 2, "slice")
    assert found.tolist() == [4, 5]


def test_without_a_cheap_operation_the_channels_that_change_most_are_complicated() -> None:
    change = noise(100, 5) * torch.tensor([1.0, 5.0, 0.1, 3.0, 0.2])
    assert worst_explained(moments_of(change[:, :0], change), 0, 2, "slice").tolist() == [1, 3]


def lost(x: Tensor, weight: Tensor, kept: list[int], taps: int) -> float:
    index = torch.tensor(kept)[:, None] * taps + torch.arange(taps)
    return float(left_by_lstsq(x[:, index.flatten()], x @ weight.T).sum())


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_first_channel_taken_away_is_the_one_that_is_lost_least(taps: int, seed: int) -> None:
    x = noise(300, 5 * taps, seed=seed) @ noise(5 * taps, 5 * taps, seed=seed + 10)
    x = x - x.mean(0)
    weight = noise(3, 5 * taps, seed=seed + 20)
    found = eliminate((x.T @ x).double(), weight.double(), 5, 4)
    best = min(itertools.combinations(range(5), 4), key=lambda k: lost(x, weight, list(k), taps))
    assert tuple(found.tolist()) == best


@given(channels=st.integers(2, 7), copies=st.integers(1, 4), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_channels_that_others_repeat_are_taken_away_without_loss(
    channels: int, copies: int, seed: int
) -> None:
    own = noise(200, channels, seed=seed)
    mixed = own @ noise(channels, copies, seed=seed + 1)
    x = torch.cat([own, mixed], 1)
    x = x - x.mean(0)
    weight = noise(4, channels + copies, seed=seed + 2)
    found = eliminate((x.T @ x).double(), weight.double(), channels + copies, channels)
    assert len(found) == channels and found.tolist() == sorted(set(found.tolist()))
    whole = float((x @ weight.T).square().sum())
    assert lost(x, weight, found.tolist(), 1) < 1e-3 * whole


def test_sums_that_are_all_rounding_still_give_a_choice() -> None:
    gram = -1e-9 * torch.eye(6, dtype=torch.float64) + 1e-10 * noise(6, 6).double()
    assert len(eliminate(gram + gram.T, noise(2, 6).double(), 6, 3)) == 3
