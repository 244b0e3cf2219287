"""Tuning towards the original's outputs: it helps, or it is taken back."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from ghostify.warmstart.reconstruct import Budget, improve

X = torch.randn(64, 5, generator=torch.Generator().manual_seed(0))


def pair() -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(1)
    return nn.Linear(5, 3), nn.Linear(5, 3)


def test_tuning_brings_a_layer_to_its_target() -> None:
    made, wanted = pair()

    def loss() -> Tensor:
        return (made(X) - wanted(X).detach()).square().mean()

    before = float(loss())
    steps = improve(made.parameters(), loss, lambda: iter([loss()]), Budget(200, 60.0), 3e-2)
    assert steps == 200
    assert float(loss()) < 0.01 * before


def test_a_tuning_that_makes_it_worse_is_taken_back() -> None:
    made, wanted = pair()
    saved = made.weight.detach().clone()

    def loss() -> Tensor:
        return -(made(X) - wanted(X).detach()).square().mean()

    def errors() -> Iterator[Tensor]:
        yield -loss()

    assert improve(made.parameters(), loss, errors, Budget(20, 60.0), 1e-2) == 0
    assert torch.equal(made.weight, saved)


def test_without_steps_nothing_changes() -> None:
    made, _ = pair()
    saved = made.weight.detach().clone()
    none = improve(made.parameters(), lambda: made(X).sum(), lambda: iter([made(X).sum()]),
                   Budget(0, 60.0), 1e-2)  # fmt: skip
    assert none == 0
    assert torch.equal(made.weight, saved)
