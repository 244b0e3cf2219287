"""Tuning towards the original's outputs: it helps, or it is taken back."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from ghostify.tuning.descent import Budget, Tune, descend, improve

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))


def descent(steps: int, rate: float) -> Tune:
    return partial(descend, budget=Budget(steps, 60.0), rate=rate)


def pair() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(1)
    return nn.Linear(5, 3), nn.Linear(5, 3)


def test_tuning_brings_a_layer_to_its_target() -> None:
    made, wanted = pair()

    def loss() -> Tensor:
        return (made(X) - wanted(X).detach()).square().mean()

    before = float(loss())
    steps = improve([made], loss, lambda: iter([loss()]), descent(200, 3e-2))
    assert steps == 200
    assert float(loss()) < 0.01 * before


def test_a_tuning_that_makes_it_worse_is_taken_back() -> None:
    made, wanted = pair()
    saved = made.weight.detach().clone()

    def loss() -> Tensor:
        return -(made(X) - wanted(X).detach()).square().mean()

    def errors() -> Iterator[Tensor]:
        yield -loss()

    assert improve([made], loss, errors, descent(20, 1e-2)) == 0
    assert torch.equal(made.weight, saved)


def test_without_steps_nothing_changes() -> None:
    made, _ = pair()
    saved = made.weight.detach().clone()
    none = improve([made], lambda: made(X).sum(), lambda: iter([made(X).sum()]), descent(0, 0.1))
    assert none == 0
    assert torch.equal(made.weight, saved)


def test_a_loss_that_is_no_number_leaves_the_weights_as_they_were() -> None:
    made, _ = pair()
    saved = made.weight.detach().clone()
    values = iter([1.0, 2.0, float("nan"), 1.0])

    def loss() -> Tensor:
        return made.weight.sum() * next(values)

    assert improve([made], loss, lambda: iter([made.weight.sum()]), descent(4, 0.1)) == 0
    assert torch.equal(made.weight, saved)
