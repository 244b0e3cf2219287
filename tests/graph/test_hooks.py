"""Hooks of the caller work in copies, and what they collect stays the caller's."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify

SEEN: list[Tensor] = []
BOX: ContextVar[dict[str, Any]] = ContextVar("box")


def by_name(module: nn.Module, args: Any, out: Tensor) -> None:
    SEEN.append(out)


def by_default(module: nn.Module, args: Any, out: Tensor, seen: list[Tensor] = SEEN) -> None:
    seen.append(out)


def by_argument(seen: list[Tensor], module: nn.Module, args: Any, out: Tensor) -> None:
    seen.append(out)


def by_closure(seen: list[Tensor]) -> Callable[..., None]:
    return lambda module, args, out: seen.append(out)


@pytest.mark.parametrize(
    "hook", [by_name, by_default, partial(by_argument, SEEN), by_closure(SEEN)]
)
def test_what_the_caller_collects_stays_empty(small_net: nn.Module, hook: Any) -> None:
    SEEN.clear()
    for module in small_net.modules():
        module.register_forward_hook(hook)
    ghostify.count(small_net)
    ghostify.plan(small_net)
    assert SEEN == []


class Collecting(nn.Module):
    """Gives what hooks have put into a box, as Hugging Face's networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 1)

        def keep(module: nn.Module, args: Any, out: Tensor) -> None:
            box = BOX.get(None)
            if box is not None:
                box["maps"] = out

        self.first.register_forward_hook(keep)

    def forward(self, x: Tensor) -> Tensor:
        token = BOX.set({})
        try:
            x = self.last(self.first(x))
            return x + BOX.get()["maps"]
        finally:
            BOX.reset(token)


def test_hooks_that_the_forward_needs_are_kept() -> None:
    net = Collecting()
    counted = ghostify.count(net, input_size=(3, 8, 8))
    assert counted.stopped is None and counted.output == (1, 16, 6, 6)
    made = ghostify.convert(net, input_size=(3, 8, 8))
    assert made(torch.rand(1, 3, 8, 8)).shape == (1, 16, 6, 6)


def test_a_hook_that_changes_the_output_counts() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1))
    net[0].register_forward_hook(lambda module, args, out: out[..., ::2, ::2])
    counted = ghostify.count(net, input_size=(3, 8, 8))
    assert counted.output == (1, 16, 4, 4)
    assert counted.total.macs == 8 * 8 * 3 * 16 + 4 * 4 * 16 * 16


def test_a_hook_writes_to_the_copy_of_the_network_that_it_holds() -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1))
    net[0].register_forward_hook(lambda module, args, out: setattr(net, "kept", out))
    ghostify.plan(net, input_size=(3, 8, 8))
    assert not hasattr(net, "kept")


def test_hooks_that_look_at_values_neither_print_nor_stop_a_run_on_shapes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    net = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1))

    def show(module: nn.Module, args: Any, out: Tensor) -> None:
        print("shape", out.shape)
        print("mean", out.mean().item())

    net[0].register_forward_hook(show)
    counted = ghostify.count(net, input_size=(3, 8, 8))
    assert counted.stopped is None and counted.how == "shapes"
    assert capsys.readouterr().out == ""
