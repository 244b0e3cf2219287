"""Batch norms after a fit: statistics that are true of what they get now, the outputs unchanged.

Fitted maps have less variance than the original's, by what the fit leaves unexplained. A norm that
keeps the original's statistics does right by them; in training, where it uses those of the batch,
it would blow them up, and what the fit has reached would be gone before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.distributed import sum_over_processes


@contextmanager
def norms_take_statistics(network: nn.Module) -> Iterator[None]:
    """At the end, batch norms have the statistics of what they got inside.

    Scale and shift make up for it: outputs in eval mode stay what they were, and those in train
    mode come close to them. Norms that got nothing, or have no scale and shift, stay as they are.

    Args:
        network: In eval mode; its forwards inside are watched.
    """
    watched = [_Watched(module) for module in network.modules() if _can_adapt(module)]
    with ExitStack() as stack:
        for norm in watched:
            handle = norm.norm.register_forward_pre_hook(norm.see)
            stack.callback(handle.remove)
        yield
    if not watched:
        return
    total = torch.cat([norm.sums for norm in watched], dim=1)
    sum_over_processes(total)
    widths = [norm.norm.num_features for norm in watched]
    for norm, sums in zip(watched, total.split(widths, dim=1), strict=True):
        norm.take(sums)


def _can_adapt(module: nn.Module) -> bool:
    tensors = ("running_mean", "running_var", "weight", "bias")
    return isinstance(module, _BatchNorm) and all(
        isinstance(getattr(module, name), Tensor) for name in tensors
    )


class _Watched:
    """A norm and, of each channel, three sums: gap to its running mean, that squared, and 1."""

    def __init__(self, norm: nn.Module) -> None:
        assert isinstance(norm, _BatchNorm)
        self.norm = norm
        self.sums = torch.zeros(3, norm.num_features, dtype=torch.float64)

    @torch.no_grad()
    def see(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        x = args[0].detach()
        assert self.norm.running_mean is not None
        across = [d for d in range(x.ndim) if d != 1]
        gap = x.float() - self.norm.running_mean.float().view(1, -1, *[1] * (x.ndim - 2))
        self.sums[0] += gap.sum(across).cpu()
        self.sums[1] += gap.square_().sum(across).cpu()
        self.sums[2] += x.numel() // x.shape[1]

    @torch.no_grad()
    def take(self, sums: Tensor) -> None:
        norm, (gaps, squares, counts) = self.norm, sums
        if not counts.all():
            return
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None and variance is not None
        gap = (gaps / counts).to(mean.device)
        seen = (squares / counts).to(mean.device) - gap.square()
        seen = seen.clamp_min(0)
        scale = norm.weight.double() * (variance.double() + norm.eps).rsqrt()
        norm.weight.copy_(scale * (seen + norm.eps).sqrt())
        norm.bias.add_((scale * gap).to(norm.bias))
        mean.add_(gap.to(mean))
        variance.copy_(seen)
