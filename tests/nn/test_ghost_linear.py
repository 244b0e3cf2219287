"""GhostLinear: a linear layer as a 1 x 1 ghost module."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghostify.nn import GhostLinear
from ghostify.nn.ghost import BiasMode


def slow_ghost(ghost: GhostLinear, x: Tensor) -> Tensor:
    """Each ghost feature a multiple of its intrinsic one, plus an offset."""
    intrinsic = ghost.primary(x)
    cheap = ghost.cheap
    assert cheap is not None
    features = [intrinsic[..., i] for i in range(intrinsic.shape[-1])]
    ghosts = []
    for i in range(intrinsic.shape[-1]):
        for j in range(ghost.s - 1):
            index = i * (ghost.s - 1) + j
            offset = 0 if cheap.bias is None else cheap.bias[index]
            ghosts.append(cheap.weight[index, 0, 0] * features[i] + offset)
    return torch.stack(features + ghosts, dim=-1)[..., : ghost.out_features]


@settings(deadline=None, max_examples=60)
@given(
    c=st.integers(1, 8),
    n=st.integers(2, 20),
    s=st.integers(2, 4),
    bias=st.booleans(),
    lead=st.lists(st.integers(1, 3), max_size=3),
)
def test_ghost_linear_computes_equations_2_and_3(
    c: int, n: int, s: int, bias: bool, lead: list[int]
) -> None:
    linear = nn.Linear(c, n, bias)
    generator = torch.Generator().manual_seed(n)
    ghost = GhostLinear.from_linear(linear, s, init="random", generator=generator)
    x = torch.randn(*lead, c)
    assert ghost(x).shape == linear(x).shape
    torch.testing.assert_close(ghost(x), slow_ghost(ghost, x))


def test_s_1_is_the_layer_bit_for_bit() -> None:
    linear = nn.Linear(5, 7)
    x = torch.randn(3, 5)
    assert torch.equal(GhostLinear.from_linear(linear, s=1)(x), linear(x))


def test_proportional_rows_are_converted_without_loss() -> None:
    linear = nn.Linear(6, 8)
    with torch.no_grad():
        linear.weight[4:] = linear.weight[:4] * -1.5
    x = torch.randn(3, 6)
    torch.testing.assert_close(GhostLinear.from_linear(linear, s=2)(x), linear(x))


@pytest.mark.parametrize(("bias_mode", "for_each_ghost"), [("full", 2), ("primary", 1)])
def test_a_ghost_feature_costs_a_factor_and_its_bias(
    bias_mode: BiasMode, for_each_ghost: int
) -> None:
    ghost = GhostLinear(10, 8, s=2, bias_mode=bias_mode)
    assert sum(p.numel() for p in ghost.parameters()) == 4 * (10 + 1) + 4 * for_each_ghost


def test_copies_pickles_and_compilers_give_equal_outputs() -> None:
    ghost = GhostLinear(6, 9, s=2).eval()
    x = torch.randn(2, 3, 6)
    with torch.no_grad():
        expected = ghost(x)
        assert torch.equal(copy.deepcopy(ghost)(x), expected)
        assert torch.equal(pickle.loads(pickle.dumps(ghost))(x), expected)
        torch._dynamo.reset()
        compiled = torch.compile(ghost, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(torch.export.export(ghost, (x,)).module()(x), expected)
        torch.testing.assert_close(torch.jit.trace(ghost, x)(x), expected)
