"""The learning rate, what decays, and the average of the weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from ghostify.errors import SettingsError
from ghostify.train.optimize import make_average, make_optimizer, rate_at
from ghostify.train.settings import FinetuneSettings


def test_the_rate_rises_to_its_highest_and_falls_to_nothing():
    rates = [rate_at(step, 100, 0.5, 0.1) for step in range(100)]
    assert max(rates) == 0.5 == rates[9] == rates[10]
    assert rates[:10] == sorted(rates[:10]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[0] == pytest.approx(0.05) and rates[-1] < 1e-3


@pytest.mark.parametrize("kind", ["muon", "sgd", "adamw"])
def test_norms_and_biases_do_not_decay(small_net, kind):
    optimizer = make_optimizer(small_net, FinetuneSettings(optimizer=kind, weight_decay=0.1))
    decaying = {
        id(p) for g in optimizer.param_groups if g["weight_decay"] == 0.1 for p in g["params"]
    }
    for name, parameter in small_net.named_parameters():
        is_weight = name.endswith("weight") and "norm" not in name and name != "body.1.weight"
        assert (id(parameter) in decaying) == is_weight, name


def test_frozen_parameters_are_left_out(small_net):
    small_net.stem.weight.requires_grad_(False)
    optimizer = make_optimizer(small_net, FinetuneSettings())
    tuned = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert id(small_net.stem.weight) not in tuned and id(small_net.last.weight) in tuned


def test_the_average_follows_weights_and_statistics_faster_at_first():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
    average = make_average(network, 0.99)
    assert average is not None
    weight = mean = None
    for step in range(4):
        with torch.no_grad():
            network[0].weight.fill_(float(step))
            network[1].running_mean.fill_(10.0 * step)
        average.update_parameters(network)
        decay = 0.0 if step == 0 else min(0.99, (1 + step) / (10 + step))
        weight = step if weight is None else decay * weight + (1 - decay) * step
        mean = 10 * weight
    assert float(average.module[0].weight.detach()) == pytest.approx(weight, rel=1e-5)
    assert float(average.module[1].running_mean) == pytest.approx(mean, rel=1e-5)
    assert make_average(network, 0.0) is None


@pytest.mark.parametrize("options, words", [
    ({"epochs": 2, "steps": 5}, ("epochs=2", "steps=5")),
    ({"batch_size": 0}, ("batch_size=0",)),
    ({"batch_size": 10, "accumulate": 3}, ("batch_size=10", "accumulate=3")),
    ({"lr": -1.0}, ("lr=-1.0", "above 0")),
    ({"ema": 1.0}, ("ema=1.0", "of 0 or more and below 1")),
    ({"features": -1.0}, ("features=-1.0", "of 0 or more.")),
    ({"kd": float("nan")}, ("kd=nan",)),
    ({"optimizer": "lion"}, ("optimizer='lion'", "muon, sgd, adamw")),
    ({"precision": "int8"}, ("precision='int8'", "fp32, bf16, fp16")),
])  # fmt: skip
def test_settings_that_make_no_sense_are_refused(options, words):
    with pytest.raises(SettingsError) as caught:
        FinetuneSettings(**options)
    assert all(word in str(caught.value) for word in words), str(caught.value)
