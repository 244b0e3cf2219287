"""Eval mode for a while."""

from __future__ import annotations

import pytest
from torch import nn

from ghostify.nn.modes import eval_mode


def mixed() -> nn.Sequential:
    """A network in train mode whose norm is frozen."""
    return nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8).eval(), nn.Dropout())


def test_inside_every_module_is_in_eval_mode_and_afterwards_in_its_own():
    one, other = mixed(), mixed().eval()
    other[2].train()
    with eval_mode(one, other):
        assert not any(m.training for net in (one, other) for m in net.modules())
    assert [m.training for m in one.modules()] == [True, True, False, True]
    assert [m.training for m in other.modules()] == [False, False, False, True]


def test_an_error_inside_restores_the_modes_too():
    network = mixed()
    with pytest.raises(KeyboardInterrupt), eval_mode(network):
        raise KeyboardInterrupt
    assert network.training and not network[1].training
