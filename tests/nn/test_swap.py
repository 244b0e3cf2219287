"""Modules are replaced wherever a network holds them."""

from __future__ import annotations

from collections import OrderedDict, namedtuple

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.nn.swap import replace_modules

Pair = namedtuple("Pair", "first second")

HOLDERS = {
    "list": list,
    "tuple": tuple,
    "dict": lambda steps: dict(enumerate(steps)),
    "ordered": lambda steps: OrderedDict(enumerate(steps)),
    "nested": lambda steps: {"all": [(steps[0],), [*steps[1:]]]},
    "named": lambda steps: [Pair(steps[0], 1), *steps[1:]],
    "in a tuple": lambda steps: ([*steps],),
}


def modules_in(value: object) -> list[nn.Module]:
    if isinstance(value, nn.Module):
        return [value]
    inner = value.values() if isinstance(value, dict) else value
    return [m for x in inner for m in modules_in(x)] if isinstance(inner, (list, tuple)) or (
        isinstance(value, dict)) else []  # fmt: skip


class Steps(nn.Module):
    """Calls its layers from a plain container."""

    def __init__(self, hold) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 32, 3)
        self.steps = hold([self.a, self.norm, self.b])

    def forward(self, x: Tensor) -> Tensor:
        for step in modules_in(self.steps):
            x = step(x)
        return x


@pytest.mark.parametrize("holder", HOLDERS)
def test_a_container_gets_the_new_module_and_the_old_one_back(holder: str) -> None:
    net, new = Steps(HOLDERS[holder]), nn.Identity()
    before, old = net.steps, net.a
    undo = replace_modules(net, {old: new})
    assert net.a is new and modules_in(net.steps)[0] is new
    undo()
    assert net.a is old and modules_in(net.steps) == [net.a, net.norm, net.b]
    assert net.steps is before


def test_a_list_that_holds_itself_ends() -> None:
    net, new = nn.Sequential(nn.ReLU()), nn.Identity()
    net.loop = [net[0]]
    net.loop.append(net.loop)
    replace_modules(net, {net[0]: new})
    assert net.loop[0] is new


@pytest.mark.parametrize("holder", HOLDERS)
def test_what_is_called_in_a_container_is_converted_counted_and_fused(holder: str) -> None:
    torch.manual_seed(0)
    net, x = Steps(HOLDERS[holder]).eval(), torch.randn(2, 3, 10, 10)
    net.norm.running_var.fill_(0.3)
    converted = ghostify.convert(net, s=2, example_inputs=(x,))
    assert net.a.weight.shape == (16, 3, 3, 3) and modules_in(net.steps)[0] is net.a
    found = ghostify.report(converted)
    assert found.after.macs == ghostify.count(converted, (x,)).total.macs < found.before.macs
    for network in (net, converted):
        assert torch.allclose(ghostify.fuse(network)(x), network(x), atol=1e-4)
    changed = ghostify.convert_(Steps(HOLDERS[holder]).eval(), s=2, example_inputs=(x,))
    assert modules_in(changed.steps) == [changed.a, changed.norm, changed.b]
