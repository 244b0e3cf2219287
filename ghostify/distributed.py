"""Several processes at one task, as `torchrun` starts them; no process group, no effect."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn


def processes() -> tuple[int, int]:
    """This process's rank, and how many there are.

    Example:
        >>> processes()
        (0, 1)
    """
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def sum_over_processes(*tensors: Tensor) -> None:
    """Replace each tensor by its sum over all processes."""
    if processes()[1] > 1:
        for tensor in tensors:
            dist.all_reduce(tensor)


def count_of_all(count: int) -> int:
    """A count of this process, added up over all."""
    total = torch.tensor(count)
    sum_over_processes(total)
    return int(total)


def average_gradients(parameters: list[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes; None counts as zero."""
    count = processes()[1]
    if count > 1:
        for parameter in parameters:
            gradient = parameter.grad
            parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
            dist.all_reduce(parameter.grad)
            parameter.grad /= count


def take_from_first(*tensors: Tensor) -> None:
    """Replace each tensor by the first process's."""
    if processes()[1] > 1:
        for tensor in tensors:
            dist.broadcast(tensor, src=0)
