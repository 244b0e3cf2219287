"""Batch norms of networks that are fitted and tuned: their mode, and their statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.distributed import processes, sum_over_processes


def train_mode(network: nn.Module, exceptions: Iterable[str], frozen_norms: bool) -> None:
    """Put a network into train mode, but for the modules that stay in eval mode.

    Args:
        network: The network.
        exceptions: Names of modules that stay in eval mode.
        frozen_norms: Whether all batch norms do.
    """
    network.train()
    stay = set(exceptions)
    for name, module in network.named_modules():
        if name in stay or (frozen_norms and isinstance(module, _BatchNorm)):
            module.training = False


@contextmanager
def norms_learn(network: nn.Module) -> Iterator[None]:
    """Put batch norms into train mode; afterwards all processes have the mean of their statistics.

    Args:
        network: In eval mode.
    """
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


@contextmanager
def norms_average(network: nn.Module) -> Iterator[None]:
    """Give batch norms in train mode the mean of the statistics of all batches inside.

    What they have after training is a mean of the last few batches: where maps are small, noise. A
    norm that nothing calls inside keeps what it has.

    Args:
        network: Its norms that learn are in train mode.
    """
    norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    before = [(m, m.momentum, [b.clone() for b in m.buffers()]) for m in norms if m.training]
    for norm, _, _ in before:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum, buffers in before:
            norm.momentum = momentum
            if norm.num_batches_tracked is None or not norm.num_batches_tracked:
                for buffer, old in zip(norm.buffers(), buffers, strict=True):
                    buffer.copy_(old)


@contextmanager
def norms_take_statistics(network: nn.Module) -> Iterator[None]:
    """Give batch norms the statistics of their inputs inside, and leave the outputs unchanged.

    Fitted maps have less variance than the original's, by what the fit leaves unexplained. A norm
    that keeps the original's statistics does right by them; in training, where it uses those of the
    batch, it would blow them up, and what the fit has reached would be gone before the first step.

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
    """Batch norm and three sums for each channel: gap to its running mean, that squared, and 1."""

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
