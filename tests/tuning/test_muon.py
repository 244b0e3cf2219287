"""Muon's steps: orthogonal for matrices, SGD's for everything else."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghostify.tuning.muon import LARGEST, SMALLEST, Muon, orthogonal


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def nearest_orthogonal(matrix: Tensor) -> Tensor:
    """By its singular value decomposition."""
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    return u @ v


@settings(deadline=None, max_examples=40)
@given(rows=st.integers(1, 24), columns=st.integers(1, 24), seed=st.integers(0, 99))
def test_singular_values_come_near_one_and_vectors_stay(rows: int, columns: int, seed: int) -> None:
    matrix = draw(rows, columns, seed=seed) * 10.0 ** (seed % 12 - 6)
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    turned = u.mH @ orthogonal(matrix) @ v.mH
    kept = values > 0.02 * values.norm()
    found = turned.diag()[kept]
    assert bool((found > 0.6).all()) and bool((found < 1.3).all())
    assert float((turned - turned.diag().diag()).abs().max()) < 1e-2


def test_a_complex_matrix_comes_near_its_own_nearest() -> None:
    matrix = draw(6, 9, dtype=torch.complex64)
    nearest, found = nearest_orthogonal(matrix), orthogonal(matrix)
    assert float((found - nearest).norm() / nearest.norm()) < 0.3


@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (20, 5), (6, 2, 7)])
def test_a_step_of_a_kernel_is_the_rates_part_of_its_norm(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(draw(*shape))
    before, weight.grad = weight.detach().clone(), 1e-6 * draw(*shape, seed=1)
    Muon([weight], lr=0.03).step()
    step = before - weight.detach()
    assert float(step.norm() / before.norm()) == pytest.approx(0.03, rel=1e-3)
    wanted = nearest_orthogonal(weight.grad.flatten(1))
    assert float(torch.cosine_similarity(step.flatten(), wanted.flatten(), dim=0)) > 0.97


@pytest.mark.parametrize("shape", [(5,), (8, 1, 3, 3), (LARGEST + 1, LARGEST + 1), ()])
def test_what_is_no_matrix_goes_as_in_sgd(shape: tuple[int, ...]) -> None:
    ours, theirs = (nn.Parameter(draw(*shape)) for _ in range(2))
    pair = [
        Muon([ours], lr=0.1, momentum=0.7),
        torch.optim.SGD([theirs], lr=0.1, momentum=0.7, nesterov=True),
    ]
    for seed in range(3):
        ours.grad, theirs.grad = (draw(*shape, seed=seed) for _ in range(2))
        for optimizer in pair:
            optimizer.step()
    torch.testing.assert_close(ours, theirs)


def test_weights_of_zero_leave_zero() -> None:
    weight = nn.Parameter(torch.zeros(4, 9))
    weight.grad = draw(4, 9)
    Muon([weight], lr=0.5).step()
    assert float(weight.detach().norm()) == pytest.approx(0.5 * SMALLEST * 2, rel=1e-3)


@pytest.mark.parametrize("shape", [(4, 9), (0, 9)])
def test_no_gradient_leads_nowhere(shape: tuple[int, ...]) -> None:
    weight = nn.Parameter(draw(*shape))
    before, weight.grad = weight.detach().clone(), torch.zeros(shape)
    Muon([weight], lr=0.5).step()
    assert torch.equal(weight.detach(), before)


def test_weights_decay_by_the_rate() -> None:
    weight = nn.Parameter(draw(3))
    before, weight.grad = weight.detach().clone(), torch.zeros(3)
    Muon([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), 0.95 * before)


def test_going_on_from_its_state_gives_the_same_bits() -> None:
    first = nn.Parameter(draw(4, 9))
    optimizer = Muon([first])
    for seed in range(4):
        if seed == 2:
            second = nn.Parameter(first.detach().clone())
            other = Muon([second])
            other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        first.grad = draw(4, 9, seed=seed)
        optimizer.step()
        if seed >= 2:
            second.grad = draw(4, 9, seed=seed)
            other.step()
    assert torch.equal(first, second)


def test_channels_last_gives_the_same_step() -> None:
    weights = [nn.Parameter(draw(8, 4, 3, 3)) for _ in range(2)]
    weights[1].data = weights[1].data.contiguous(memory_format=torch.channels_last)
    for weight in weights:
        weight.grad = draw(8, 4, 3, 3, seed=1)
        Muon([weight]).step()
    torch.testing.assert_close(*weights)
