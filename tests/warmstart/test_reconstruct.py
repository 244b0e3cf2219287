"""The reconstruction: what a tuning is judged by."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from ghostify.data.spool import Spool
from ghostify.tuning.descent import Budget
from ghostify.warmstart.reconstruct import tune_network


class Weight(nn.Module):
    """One number; what it does to the output, and on the way there."""

    def __init__(self, harm: float) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(()))
        self.harm = harm

    def along(self, x: Tensor) -> list[Tensor]:
        return [x * self.w, 1 + self.harm * self.w * x.abs()]


def images() -> Spool:
    found = Spool()
    found.append(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)), 16)
    return found


@pytest.mark.parametrize("harm", [0.0, 0.3, -1e-9])
def test_what_helps_on_the_way_alone_is_undone(harm: float) -> None:
    network = Weight(harm)  # on the way it should be 1, for the output 0
    steps = tune_network(
        lambda x: [x, torch.ones_like(x)], network.along, network, images(), Budget(40, 60), 4, 0
    )
    assert (steps, float(network.w.detach())) == (0, 0.0)


def test_what_brings_the_output_closer_is_kept() -> None:
    network = Weight(0)
    steps = tune_network(
        lambda x: [x, x], lambda x: [x * network.w] * 2, network, images(), Budget(40, 60), 4, 0
    )
    assert steps == 40 and float(network.w.detach()) > 0.5


def test_outputs_that_cannot_be_compared_leave_the_way_there_to_judge_by() -> None:
    network = Weight(0)

    def found(x: Tensor) -> list[Tensor]:
        return [*network.along(x)[:1], torch.zeros(5)]

    steps = tune_network(
        lambda x: [x, torch.zeros(4)], found, network, images(), Budget(40, 60), 4, 0
    )
    assert steps == 40 and float(network.w.detach()) > 0.5
