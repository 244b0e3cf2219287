"""The parts of a step's loss and their weights."""

from __future__ import annotations

from itertools import pairwise

import torch

from ghostify.train.losses import Losses, weights_at
from ghostify.train.settings import FinetuneSettings


def test_the_total_weighs_the_parts_that_there_are():
    chosen = {"ce": 2.0, "kd": 3.0, "features": 5.0}
    one = torch.tensor(1.0)
    assert float(Losses({"ce": one, "features": one}).total(chosen)) == 7.0
    assert float(Losses({"ce": one, "kd": one, "features": one}).total(chosen)) == 10.0


def test_a_callers_losses_count_once_beside_the_features():
    parts = {"own/box": torch.tensor(2.0), "own/cls": torch.tensor(3.0)}
    losses = Losses({**parts, "features": torch.tensor(0.5)})
    assert float(losses.total({"features": 4.0})) == 7.0


def test_the_weight_of_features_falls_to_zero_and_the_others_stay():
    chosen = FinetuneSettings(ce=2.0, kd=3.0, features=5.0)
    weights = [weights_at(step, 50, chosen) for step in range(51)]
    features = [each["features"] for each in weights]
    assert features[0] == 5.0 and features[-1] == 0.0
    assert all(a > b for a, b in pairwise(features))
    assert all(each["ce"] == 2.0 and each["kd"] == 3.0 for each in weights)


def test_the_mean_of_losses_is_that_of_each_part():
    some = [{"ce": torch.tensor(float(n)), "features": torch.tensor(0.0)} for n in (1, 2)]
    mean = Losses.mean([Losses(parts) for parts in some]).parts
    assert {name: float(value) for name, value in mean.items()} == {"ce": 1.5, "features": 0.0}
