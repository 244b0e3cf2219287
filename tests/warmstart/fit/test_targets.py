"""What serves as well as what is wanted, because an activation hides the difference."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn

from ghostify.warmstart.fit.neighbours import active_between
from ghostify.warmstart.fit.targets import Targets

ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float, float]] = {
    "relu": (F.relu, 0.0, inf),
    "relu6": (F.relu6, 0.0, 6.0),
    "hardswish": (F.hardswish, -3.0, inf),
    "hardsigmoid": (F.hardsigmoid, -3.0, 3.0),
    "hardtanh": (F.hardtanh, -1.0, 1.0),
}


@settings(deadline=None, max_examples=60)
@given(name=st.sampled_from(sorted(ACTIVATIONS)), seed=st.integers(0, 999))
def test_what_serves_gives_the_same_after_the_activation(name: str, seed: int) -> None:
    activation, low, high = ACTIVATIONS[name]
    wanted, made = 6 * torch.randn(2, 200, generator=torch.Generator().manual_seed(seed))
    bounds = torch.tensor(low), torch.tensor(high)
    nearest = Targets.within(wanted, *bounds).nearest(made)
    torch.testing.assert_close(activation(nearest), activation(wanted))
    assert bool(((nearest - made).abs() <= (wanted - made).abs() + 1e-6).all())


@settings(deadline=None, max_examples=60)
@given(
    # Hardswish takes most of its values twice: there what serves may be nearer elsewhere.
    name=st.sampled_from(sorted(ACTIVATIONS.keys() - {"hardswish"})),
    seed=st.integers(0, 999),
)
def test_nothing_that_serves_is_nearer(name: str, seed: int) -> None:
    activation, low, high = ACTIVATIONS[name]
    wanted, made = 6 * torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(seed))
    tried = torch.cat([torch.linspace(-30, 30, 6001).expand(20, -1), wanted, made], 1)
    serves = (activation(tried) - activation(wanted)).abs() < 1e-6
    least = (tried - made).abs().masked_fill(~serves, inf).min(1).values
    bounds = torch.tensor(low), torch.tensor(high)
    found = (Targets.within(wanted, *bounds).nearest(made) - made).abs()[:, 0]
    assert bool((found <= least + 0.011).all())


def test_without_an_activation_only_what_is_wanted_serves() -> None:
    targets = Targets(torch.tensor([-1.0, 2.0]))
    assert targets.nearest(torch.tensor([-3.0, 0.0])).tolist() == [-1.0, 2.0]


def bounds_in(network: nn.Module) -> tuple[float, float] | None:
    """Of the first convolution of a network."""
    graph = fx.symbolic_trace(network).graph
    node = next(n for n in graph.nodes if n.op == "call_module")
    return active_between(node, network)


@pytest.mark.parametrize(
    ("after", "bounds"),
    [
        ([nn.ReLU()], (0.0, inf)),
        ([nn.ReLU6(inplace=True)], (0.0, 6.0)),
        ([nn.Hardswish()], (-3.0, inf)),
        ([nn.Hardtanh(-2.0, 5.0)], (-2.0, 5.0)),
        ([nn.SiLU()], None),
        ([nn.LeakyReLU()], None),
        ([nn.MaxPool2d(2), nn.ReLU()], None),
        ([], None),
    ],
)  # fmt: skip
def test_bounds_are_those_of_the_activation(
    after: list[nn.Module], bounds: tuple[float, float] | None
) -> None:
    assert bounds_in(nn.Sequential(nn.Conv2d(1, 1, 1), *after)) == bounds


class Twice(nn.Module):
    """A value that is read by an activation and by something else."""

    def __init__(self, other: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(1, 1, 1), other

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return torch.relu(y) + self.other(y)


def test_what_something_else_reads_is_not_hidden() -> None:
    assert bounds_in(Twice(torch.sigmoid)) is None
    assert bounds_in(Twice(F.hardswish)) == (-3.0, inf)
