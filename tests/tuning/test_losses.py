"""The losses, each against its formula written out."""

from __future__ import annotations

import pytest
import torch

from ghostify.tuning.losses import difference, distillation


def test_distillation_is_the_divergence_of_softened_probabilities():
    made, wanted = torch.randn(4, 6), torch.randn(4, 6)
    p, q = (torch.softmax(wanted / 3, 1), torch.softmax(made / 3, 1))
    by_hand = (
        9 * sum(float(p[i, j] * (p[i, j] / q[i, j]).log()) for i in range(4) for j in range(6)) / 4
    )
    assert abs(float(distillation(made, wanted, 3.0)) - by_hand) < 1e-4


def test_the_gradient_of_distillation_hardly_depends_on_the_temperature():
    wanted, norms = torch.randn(8, 10), []
    for temperature in (4.0, 16.0):
        made = torch.zeros(8, 10, requires_grad=True)
        distillation(made, wanted, temperature).backward()
        norms.append(float(made.grad.norm()))
    assert 0.8 < norms[0] / norms[1] < 1.25


def test_the_difference_is_the_mean_over_tensors_of_each_ones_relative_energy():
    wanted = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    made = [torch.randn_like(x) for x in wanted]
    by_hand = sum(
        float(((a - b) ** 2).sum() / (b**2).sum()) for a, b in zip(made, wanted, strict=True)
    )
    assert float(difference(made, wanted)) == pytest.approx(by_hand / 2, rel=1e-5)


def test_the_difference_sees_through_nesting_and_leaves_out_what_is_no_float():
    wanted = {"a": torch.ones(3), "b": (torch.full((2,), 2.0), torch.tensor(7))}
    made = {"a": torch.zeros(3), "b": (torch.full((2,), 2.0), torch.tensor(0))}
    assert float(difference(made, wanted)) == 0.5


def test_other_processes_share_in_the_wanted_energy_alone():
    made, wanted = torch.zeros(4), torch.ones(4)
    assert float(difference(made, wanted, lambda energy: 4 * energy)) == 0.25


def test_the_difference_to_nothing_is_finite():
    assert torch.isfinite(difference(torch.ones(3), torch.zeros(3)))
