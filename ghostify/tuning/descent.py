"""Gradient descent within a budget, taken back where it did not help."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from ghostify.distributed import average_gradients, sum_over_processes, take_from_first
from ghostify.tuning.schedules import ramp_then_cosine

WARMUP, FIRST = 0.1, 0.1
"""Part of the budget in which the rate rises, and the part of the rate that it begins with."""

MAX_NORM = 5.0
"""Norm of the gradient at most: in deep networks single steps would else undo hundreds."""

JUDGED = 16
"""Batches that a tuning is judged on, before and after."""

Tune = Callable[[list[nn.Parameter], Callable[[], Tensor]], int]
"""Takes parameters down a loss, and returns in how many steps."""


@dataclass(frozen=True)
class Budget:
    """Limits of a tuning.

    Attributes:
        steps: Most steps.
        seconds: Most seconds.
    """

    steps: int
    seconds: float


def improve(
    modules: Sequence[nn.Module],
    loss: Callable[[], Tensor],
    errors: Callable[[], Iterator[Tensor]],
    tune: Tune,
) -> int:
    """Tune, and take it back where it didn't help: few steps may not mend what the first break.

    Args:
        modules: The modules to tune.
        loss: Of a step.
        errors: Of batches, always the same; the first ones judge.
        tune: How.

    Returns:
        Number of steps; 0 where they are taken back.
    """
    before, saved = _judge(errors), [copy.deepcopy(module.state_dict()) for module in modules]
    steps = tune([p for module in modules for p in module.parameters()], loss)
    if steps and _judge(errors) < before:
        return steps
    for module, state in zip(modules, saved, strict=True):
        module.load_state_dict(state)
    return 0


def improve_statistics(
    network: nn.Module, errors: Callable[[], Iterator[Tensor]], change: Callable[[], None]
) -> None:
    """Change a network's buffers, and take that back where it did not help.

    Args:
        network: The network.
        errors: Of batches, always the same; the first ones judge.
        change: Changes buffers in place.
    """
    before, saved = _judge(errors), [(b, b.clone()) for b in network.buffers()]
    change()
    if not _judge(errors) < before:
        for buffer, old in saved:
            buffer.copy_(old)


@torch.no_grad()
def _judge(errors: Callable[[], Iterator[Tensor]]) -> float:
    """The sum of the first errors, of all processes."""
    total = torch.stack(list(islice(errors(), JUDGED))).sum()
    sum_over_processes(total)
    return float(total)


def descend(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    budget: Budget,
    rate: float,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
) -> int:
    """Go down a loss, the rate warmed up and then lowered to zero by the end of the budget.

    Where time ends first, the rate follows the clock: the last steps are small in any case.

    Returns:
        Number of steps; 0 where a gradient is not finite, or there is nothing to tune.
    """
    tuned = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    if not tuned or budget.steps < 1 or budget.seconds <= 0:
        return 0
    going = optimizer(tuned, lr=rate)
    start = time.perf_counter()
    steps = 0
    while steps < budget.steps:
        spent = _agreed((time.perf_counter() - start) / budget.seconds)
        if spent >= 1:
            break
        done = max(steps / budget.steps, spent)
        going.param_groups[0]["lr"] = rate * ramp_then_cosine(done, WARMUP, 1.0, FIRST)
        going.zero_grad()
        loss().backward()
        average_gradients(tuned)
        if not torch.nn.utils.clip_grad_norm_(tuned, MAX_NORM).isfinite():
            return 0
        going.step()
        steps += 1
    going.zero_grad()
    return steps


def _agreed(spent: float) -> float:
    """The first process's clock: all must take the same number of steps."""
    clock = torch.tensor(spent, dtype=torch.float64)
    take_from_first(clock)
    return float(clock)
