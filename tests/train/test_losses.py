"""The losses, each against its formula written out."""

from __future__ import annotations

from itertools import pairwise

import torch

from ghostify.train.losses import Losses, distillation, feature_difference, weights_at
from ghostify.train.settings import FinetuneSettings
from ghostify.warmstart.reconstruct import difference


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


def test_features_differ_as_a_warm_start_measures_it():
    wanted = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    made = [torch.randn_like(x) for x in wanted]
    found = feature_difference(made, wanted, lambda x: x)
    assert torch.allclose(found, difference(made, wanted))


def test_the_total_weighs_the_parts_that_there_are():
    chosen = {"ce": 2.0, "kd": 3.0, "features": 5.0}
    one = torch.tensor(1.0)
    assert float(Losses(one, None, one).total(chosen)) == 7.0
    assert float(Losses(one, one, one).total(chosen)) == 10.0


def test_the_weight_of_features_falls_to_zero_and_the_others_stay():
    chosen = FinetuneSettings(ce=2.0, kd=3.0, features=5.0)
    weights = [weights_at(step, 50, chosen) for step in range(51)]
    features = [each["features"] for each in weights]
    assert features[0] == 5.0 and features[-1] == 0.0
    assert all(a > b for a, b in pairwise(features))
    assert all(each["ce"] == 2.0 and each["kd"] == 3.0 for each in weights)


def test_the_mean_of_losses_is_that_of_each_part():
    parts = Losses.mean([Losses(torch.tensor(float(n)), None, torch.tensor(0.0)) for n in (1, 2)])
    assert float(parts.ce) == 1.5 and parts.kd is None
