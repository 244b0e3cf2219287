"""Tuning to reproduce the original's outputs on the calibration images: no labels are used."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from ghostify.data.spool import Spool
from ghostify.distributed import (
    average_gradients,
    processes,
    sum_over_processes,
    take_from_first,
)
from ghostify.graph.segments import Segment
from ghostify.warmstart.c_ghost.batches import SegmentPair

BLOCK_STEPS, NETWORK_STEPS = 100, 1500
BLOCK_RATE, NETWORK_RATE = 3e-3, 2e-2
"""Of Adam for blocks, of SGD for the whole network, where it comes further in as many steps."""

TEMPERATURE, ON_THE_WAY = 4.0, 30.0
"""Of the softened class scores, and the weight of what is given on the way to them."""

WARM_UP = 0.1
LARGEST = 5.0
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


def tune_block(networks: SegmentPair, targets: Spool, budget: Budget, size: int, seed: int) -> int:
    """Tune a segment so that, on what it now gets, it gives what the original's gave.

    Args:
        networks: The segment, and what goes in.
        targets: What the original's segment gave.
        budget: Steps and seconds.
        size: Images of a step.
        seed: Of their choice.

    Returns:
        Number of steps.
    """
    names = networks.segment.layers
    modules = [networks.student.get_submodule(name) for name in names]
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        rows = draw(len(targets), size, generator)
        made = networks.segment.run(networks.student, networks.inputs.student.take(rows))
        return difference(made, targets.take(rows))

    def errors() -> Iterator[Tensor]:
        batches = zip(networks.inputs.student.batches(size), targets.batches(size), strict=True)
        return (difference(networks.segment.run(networks.student, x), y) for x, y in batches)

    return improve(modules, loss, errors, partial(descend, budget=budget, rate=BLOCK_RATE))


View = Callable[[Tensor], list[Any]]
"""What a network gives on the way to its output, and the output itself at the end."""


def tune_network(
    taught: View,
    made: View,
    network: nn.Module,
    images: Spool,
    budget: Budget,
    size: int,
    seed: int,
    said: Said = lambda _: None,
) -> int:
    """Tune the whole network towards the original's output, and what it gives on the way.

    The images are mirrored and shifted at random: the original answers for each variant itself.
    Batch norms use the statistics of the batch meanwhile, and learn them.

    Args:
        taught: What the original gives.
        made: What the network gives, tensor for tensor.
        network: What is tuned.
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
            *wayside, wanted = taught(x)
        *passed, output = made(x)
        parts = [difference(a, b) for a, b in zip(passed, wayside, strict=True)]
        on_the_way = sum(parts, torch.zeros(())) / max(len(parts), 1)
        return outputs_apart(output, wanted) + ON_THE_WAY * on_the_way

    def loss() -> Tensor:
        nonlocal count
        count += 1
        said(f"reconstructing the network, step {count}")
        return error(vary(images.take(draw(len(images), size, generator)), generator))

    def errors() -> Iterator[Tensor]:
        return (error(x) for x in images.batches(size))

    def tune(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> int:
        sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
        with _norms_learn(network):
            return descend(parameters, loss, budget, NETWORK_RATE, sgd)

    return improve([network], loss, errors, tune)


def outputs_apart(made: Any, wanted: Any) -> Tensor:
    """Of class scores ``(N, classes)`` the divergence, as distillation has it; else the energy."""
    if not isinstance(wanted, Tensor) or wanted.ndim != 2 or wanted.shape[1] < 2:
        return ON_THE_WAY * difference(made, wanted)
    scores, told = (F.log_softmax(x.float() / TEMPERATURE, dim=1) for x in (made, wanted))
    return TEMPERATURE**2 * F.kl_div(scores, told, reduction="batchmean", log_target=True)


@contextmanager
def _norms_learn(network: nn.Module) -> Iterator[None]:
    """Batch norms in train mode; afterwards all processes have the mean of their statistics."""
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.train()
    try:
        yield
    finally:
        for norm in norms:
            norm.eval()
    statistics = [b for norm in norms for b in norm.buffers() if b.dtype.is_floating_point]
    sum_over_processes(*statistics)
    for tensor in statistics:
        tensor.div_(processes()[1])


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


Tune = Callable[[list[nn.Parameter], Callable[[], Tensor]], int]
"""Takes parameters down a loss, and says in how many steps."""


def improve(
    modules: Sequence[nn.Module],
    loss: Callable[[], Tensor],
    errors: Callable[[], Iterator[Tensor]],
    tune: Tune,
) -> int:
    """Tune, and take it back where it didn't help: few steps may not mend what the first break.

    Args:
        modules: What is tuned.
        loss: Of a step.
        errors: Of batches, always the same; the first ones judge.
        tune: How.

    Returns:
        Number of steps; 0 where they are taken back.
    """

    @torch.no_grad()
    def judge() -> float:
        total = torch.stack(list(islice(errors(), JUDGED))).sum()
        sum_over_processes(total)
        return float(total)

    before, saved = judge(), [copy.deepcopy(module.state_dict()) for module in modules]
    steps = tune([p for module in modules for p in module.parameters()], loss)
    if steps and judge() < before:
        return steps
    for module, state in zip(modules, saved, strict=True):
        module.load_state_dict(state)
    return 0


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
        going.param_groups[0]["lr"] = rate * schedule(max(steps / budget.steps, spent))
        going.zero_grad()
        loss().backward()
        average_gradients(tuned)
        if not torch.nn.utils.clip_grad_norm_(tuned, LARGEST).isfinite():
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


def schedule(progress: float) -> float:
    """Part of the rate at a point between start (0) and end (1): a ramp, then half a cosine."""
    if progress < WARM_UP:
        return 0.1 + 0.9 * progress / WARM_UP
    return 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1)))
