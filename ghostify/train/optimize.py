"""The optimizer, its learning rate at each step, and the average of the weights."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ghostify.train.settings import FinetuneSettings
from ghostify.tuning.muon import Muon
from ghostify.tuning.schedules import ramp_then_cosine


def make_optimizer(network: nn.Module, settings: FinetuneSettings) -> torch.optim.Optimizer:
    """The optimizer; weights decay, norms and biases don't."""
    tuned = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in tuned if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in tuned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return OPTIMIZERS[settings.optimizer]([g for g in groups if g["params"]], settings)


Groups = list[dict[str, object]]
Tensors = tuple[Tensor, ...] | list[Tensor]
OPTIMIZERS: dict[str, Callable[[Groups, FinetuneSettings], torch.optim.Optimizer]] = {
    "muon": lambda groups, chosen: Muon(groups, chosen.rate, momentum=chosen.inertia),
    "sgd": lambda groups, chosen: torch.optim.SGD(
        groups, chosen.rate, momentum=chosen.inertia, nesterov=chosen.inertia > 0
    ),
    "adamw": lambda groups, chosen: torch.optim.AdamW(groups, chosen.rate),
}
"""Constructor of each optimizer; a new one is one more entry."""


def rate_at(step: int, total: int, highest: float, warmup: float) -> float:
    """The learning rate of a step: a ramp up, then half a cosine to zero.

    Args:
        step: The step, from 0.
        total: How many there are.
        highest: The rate at the end of the ramp.
        warmup: Part of the steps that the ramp takes.

    Example:
        >>> [round(rate_at(step, 10, 1.0, 0.2), 2) for step in (0, 1, 2, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    ramp = round(warmup * total)
    # While it rises, a step has the rate of its end: the first one does something too.
    return highest * ramp_then_cosine(step + (step < ramp), ramp, total)


def make_average(network: nn.Module, decay: float) -> AveragedModel | None:
    """The exponential average of weights and norms' statistics; None for a decay of 0.

    Early on, when it would still be what the weights began as, it follows faster.
    """
    if not decay:
        return None

    def average(averages: Tensors, values: Tensors, count: Tensor | int) -> None:
        warm = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(warm)(averages, values, count)

    return AveragedModel(network, multi_avg_fn=average, use_buffers=True)
