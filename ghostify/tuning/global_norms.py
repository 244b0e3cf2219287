"""Batch norms over the batch of all processes, on any device.

PyTorch's own SyncBatchNorm needs a GPU and other modules in the network; this needs neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


class GlobalNorms(TorchFunctionMode):
    """Inside, batch norms in training use the statistics of all processes' batches together.

    Whatever module calls ``torch.nn.functional.batch_norm`` is served. All processes must run the
    same network.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Replace ``batch_norm`` where it would use the batch's statistics."""
        keywords = dict(kwargs or {})
        if func is F.batch_norm:
            return _batch_norm(*args, **keywords)
        return func(*args, **keywords)


class _Sum(torch.autograd.Function):
    """Sum of a tensor over all processes; each one's gradient is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return _reduce(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _reduce(gradient)


def _reduce(value: Tensor) -> Tensor:
    total = value.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total


def _add_up(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)
    return total


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.float()
    across = [d for d in range(x.ndim) if d != 1]
    count = x.numel() // x.shape[1] * dist.get_world_size()
    shape = (1, -1, *[1] * (x.ndim - 2))
    mean = _add_up(x.sum(across)) / count
    centred = x - mean.view(shape)
    variance = _add_up(centred.square().sum(across)) / count
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            unbiased = variance * (count / max(count - 1, 1))
            running_var.lerp_(unbiased.to(running_var.dtype), momentum)
    out = centred * (variance + eps).rsqrt().view(shape)
    if weight is not None:
        out = out * weight.view(shape)
    if bias is not None:
        out = out + bias.view(shape)
    return out.to(input.dtype)
