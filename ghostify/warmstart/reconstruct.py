"""Tuning to reproduce the original's outputs on the calibration images: no labels are used."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify.distributed import (
    average_gradients,
    processes,
    sum_over_processes,
    take_from_first,
)
from ghostify.graph.segments import Segment
from ghostify.warmstart.spool import Spool
from ghostify.warmstart.views import Feed

BLOCK_STEPS, NETWORK_STEPS = 100, 1500
BLOCK_RATE, NETWORK_RATE = 3e-3, 1.5e-3
WARM_UP = 0.1
LARGEST = 1.0
"""Norm of the gradient at most: in deep networks single steps would else undo hundreds."""
JUDGED = 16
"""Batches that a tuning is judged on, before and after."""

Said = Callable[[str], None]


@dataclass(frozen=True)
class Budget:
    """How long a tuning may go on.

    Attributes:
        steps: Most steps.
        seconds: Most seconds.
    """

    steps: int
    seconds: float


def tune_block(feed: Feed, targets: Spool, budget: Budget, size: int, seed: int) -> int:
    """Tune a segment so that, on what it now gets, it gives what the original's gave.

    Args:
        feed: The segment, and what goes in.
        targets: What the original's segment gave.
        budget: Steps and seconds.
        size: Images of a step.
        seed: Of their choice.

    Returns:
        Number of steps.
    """
    names = feed.segment.layers
    modules = [feed.converted.get_submodule(name) for name in names]
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        rows = draw(len(targets), size, generator)
        made = feed.segment.run(feed.converted, feed.after.take(rows))
        return difference(made, targets.take(rows))

    def errors() -> Iterator[Tensor]:
        batches = zip(feed.after.batches(size), targets.batches(size), strict=True)
        return (difference(feed.segment.run(feed.converted, x), y) for x, y in batches)

    parameters = (p for module in modules for p in module.parameters())
    return improve(parameters, loss, errors, budget, BLOCK_RATE)


View = Callable[[Tensor], list[Any]]
"""What a network gives on the way to its output, and the output itself at the end."""


def tune_network(
    taught: View,
    made: View,
    parameters: Iterable[nn.Parameter],
    images: Spool,
    budget: Budget,
    size: int,
    seed: int,
    said: Said = lambda _: None,
) -> int:
    """Tune the whole network towards the original's output, and what it gives on the way.

    The images are mirrored and shifted at random: the original answers for each variant itself.

    Args:
        taught: What the original gives.
        made: What the converted network gives, tensor for tensor.
        parameters: What is tuned.
        images: The calibration images.
        budget: Steps and seconds.
        size: Images of a step.
        seed: Of their choice and variation.
        said: Told the step.

    Returns:
        Number of steps.
    """
    generator = torch.Generator().manual_seed(seed)
    count = 0

    def error(x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = taught(x)
        parts = [difference(a, b) for a, b in zip(made(x), wanted, strict=True)]
        on_the_way = sum(parts[:-1], torch.zeros(())) / max(len(parts) - 1, 1)
        return parts[-1] + on_the_way

    def loss() -> Tensor:
        nonlocal count
        count += 1
        said(f"reconstructing the network, step {count}")
        return error(vary(images.take(draw(len(images), size, generator)), generator))

    def errors() -> Iterator[Tensor]:
        return (error(x) for x in images.batches(size))

    return improve(parameters, loss, errors, budget, NETWORK_RATE)


def outputs_along(network: nn.Module, segments: Sequence[Segment], x: Any) -> list[Any]:
    """What each of a network's segments gives."""
    outputs = []
    for segment in segments:
        x = segment.run(network, x)
        outputs.append(x)
    return outputs


def draw(count: int, size: int, generator: torch.Generator) -> list[int]:
    """This process's part of a step's images, of those that it has."""
    own = -(-size // processes()[1])
    return torch.randint(count, (own,), generator=generator).tolist()


def vary(images: Tensor, generator: torch.Generator) -> Tensor:
    """Images mirrored at random, and all shifted by up to an eighth of their size.

    Args:
        images: ``(N, C, H, W)``.
        generator: Of the choices.
    """
    flip = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(flip.view(-1, 1, 1, 1), images.flip(3), images)
    height, width = images.shape[-2:]
    reach = (height // 8, width // 8)
    if not all(reach):
        return images
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]), mode="reflect")
    top, left = (int(torch.randint(2 * r + 1, (1,), generator=generator)) for r in reach)
    return padded[:, :, top : top + height, left : left + width]


def difference(made: Any, wanted: Any) -> Tensor:
    """Energy of the difference as a part of the wanted energy, the mean over all tensors."""
    pairs = zip(_tensors(made), _tensors(wanted), strict=True)
    parts = [(a - b).square().mean() / b.square().mean().clamp_min(1e-12) for a, b in pairs]
    return torch.stack(parts).mean()


def _tensors(output: Any) -> list[Tensor]:
    leaves = pytree.tree_leaves(output)
    return [x for x in leaves if isinstance(x, Tensor) and x.dtype.is_floating_point]


def improve(
    parameters: Iterable[nn.Parameter],
    loss: Callable[[], Tensor],
    errors: Callable[[], Iterator[Tensor]],
    budget: Budget,
    rate: float,
) -> int:
    """`descend`, taken back where it didn't help: few steps may not mend what the first ones break.

    Args:
        parameters: What is tuned.
        loss: Of a step.
        errors: Of batches, always the same; the first ones judge.
        budget: Steps and seconds.
        rate: Highest learning rate.

    Returns:
        Number of steps; 0 where they are taken back.
    """

    @torch.no_grad()
    def judge() -> float:
        total = torch.stack(list(islice(errors(), JUDGED))).sum()
        sum_over_processes(total)
        return float(total)

    tuned = list(dict.fromkeys(parameters))
    before, saved = judge(), [p.detach().clone() for p in tuned]
    steps = descend(tuned, loss, budget, rate)
    if judge() < before:
        return steps
    with torch.no_grad():
        for parameter, old in zip(tuned, saved, strict=True):
            parameter.copy_(old)
    return 0


def descend(
    parameters: Iterable[nn.Parameter], loss: Callable[[], Tensor], budget: Budget, rate: float
) -> int:
    """Adam down a loss, the rate warmed up and then lowered to zero by the end of the budget.

    Where time ends first, the rate follows the clock: the last steps are small in any case.

    Returns:
        Number of steps. Without a finite loss none is kept.
    """
    tuned = [p for p in dict.fromkeys(parameters) if p.requires_grad]
    before = [p.detach().clone() for p in tuned]
    if not tuned or budget.steps < 1 or budget.seconds <= 0:
        return 0
    optimizer = torch.optim.Adam(tuned, rate)
    start = time.perf_counter()
    for step in range(budget.steps):
        spent = _agreed((time.perf_counter() - start) / budget.seconds)
        if spent >= 1:
            return step
        optimizer.param_groups[0]["lr"] = rate * schedule(max(step / budget.steps, spent))
        value = loss()
        optimizer.zero_grad()
        value.backward()
        average_gradients(tuned)
        if not all(bool(p.grad.isfinite().all()) for p in tuned if p.grad is not None):
            with torch.no_grad():
                for parameter, old in zip(tuned, before, strict=True):
                    parameter.copy_(old)
            return 0
        torch.nn.utils.clip_grad_norm_(tuned, LARGEST)
        optimizer.step()
    for parameter in tuned:
        parameter.grad = None
    return budget.steps


def _agreed(spent: float) -> float:
    """The first process's clock: all must take the same number of steps."""
    clock = torch.tensor(spent, dtype=torch.float64)
    take_from_first(clock)
    return float(clock)


def schedule(progress: float) -> float:
    """Part of the rate at a point between start (0) and end (1): a ramp, then half a cosine."""
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1)))
