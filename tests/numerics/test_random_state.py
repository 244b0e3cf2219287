"""No verb moves the global random state, whatever the network draws."""

from __future__ import annotations

import functools
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ghostify
from ghostify.analysis import analyze
from ghostify.numerics.random_state import keep_random_state

MODES = ("c-ghost", "g-ghost", "cg-ghost")


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        return F.relu(x + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))))


class Draws(nn.Module):
    """Draws in every forward, in eval mode too, from all three sources."""

    def __init__(self, classes=4):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.layer1 = nn.Sequential(*[Block(8) for _ in range(4)])
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        x = F.dropout(self.stem(x), 0.01, training=True) * (1 + 1e-3 * random.random())
        x = self.layer1(x) + 1e-3 * float(np.random.rand())
        return self.fc(x.mean((2, 3)))


def _state():
    plain, array = random.getstate(), np.random.get_state()
    return plain, array[1].tobytes(), array[2:], torch.get_rng_state().numpy().tobytes()


@pytest.fixture
def images():
    return torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network():
    with keep_random_state(0):
        return Draws().eval()


def unmoved(test):
    """Compare inside the test: what runs the tests may set the state between its phases."""

    @functools.wraps(test)
    def compared(*args, **options):
        before = _state()
        test(*args, **options)
        assert _state() == before

    return compared


@pytest.mark.parametrize("mode", MODES)
@unmoved
def test_conversions_don_t_move_it(network, mode):
    ghostify.convert(network, mode=mode)
    ghostify.plan(network, mode=mode)
    ghostify.convert("resnet20-cifar", mode=mode)


@pytest.mark.parametrize("mode", MODES)
@unmoved
def test_warm_starts_don_t_move_it_and_don_t_depend_on_it(network, images, mode):
    first = ghostify.convert(network, mode=mode, calibration=images)
    with keep_random_state(5):
        second = ghostify.convert(network, mode=mode, calibration=images)
    for one, other in zip(first.state_dict().values(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@unmoved
def test_choosing_s_does_not_move_it(network, images):
    ghostify.convert(network, calibration=images, target_macs=0.7)


@unmoved
def test_looking_does_not_move_it(network, images, tmp_path):
    analyze(network, images)
    ghostify.count(network, input_size=(3, 12, 12))
    ghostify.report(network, input_size=(3, 12, 12))
    ghostify.verify(network, input_size=(3, 12, 12), original=None)


@unmoved
def test_folders_don_t_move_it(tmp_path):
    made = ghostify.convert("resnet20-cifar")
    ghostify.save(made, tmp_path / "net")
    ghostify.load(tmp_path / "net")


@unmoved
def test_training_and_evaluation_don_t_move_it(network, images):
    pytest.importorskip("lightning_fabric")
    labels = torch.arange(16) % 4
    student = ghostify.convert(network, input_size=(3, 12, 12))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(images, labels), 4, shuffle=True
    )
    for data in ((images, labels), loader):
        ghostify.finetune(student, data, teacher=network, steps=2, batch_size=4)
        ghostify.evaluate(network, data)


@unmoved
def test_it_is_as_it_was_after_an_error(network):
    with pytest.raises(ghostify.GhostifyError):
        ghostify.convert(network, calibration=torch.rand(4, 5, 12, 12, generator=torch.Generator()))


@unmoved
def test_a_seed_is_for_the_inside_alone():
    with keep_random_state(3):
        first = torch.rand(2), random.random(), np.random.rand()
    with keep_random_state(3):
        second = torch.rand(2), random.random(), np.random.rand()
    assert torch.equal(first[0], second[0]) and first[1:] == second[1:]
