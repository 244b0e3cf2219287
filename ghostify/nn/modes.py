"""Train and eval mode, and precision, of networks whose parts may each have their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.parameter import is_lazy

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@contextmanager
def eval_mode(*networks: nn.Module) -> Iterator[None]:
    """Put networks into eval mode; afterwards each module has its own mode again.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8).eval())
        >>> with eval_mode(network):
        ...     network[0].training
        False
        >>> network[0].training, network[1].training
        (True, False)
    """
    with modes_kept(*networks):
        for network in networks:
            network.eval()
        yield


@contextmanager
def modes_kept(*networks: nn.Module) -> Iterator[None]:
    """Give each module of some networks its own mode back afterwards."""
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def to_single(network: ModuleT) -> ModuleT:
    """Turn a network's floating-point tensors into single precision, in place; returns it."""
    for tensor in _of_other_precision(network).values():
        tensor.data = tensor.data.float()
    return network


@contextmanager
def single_precision(network: nn.Module) -> Iterator[None]:
    """Turn a network into single precision, of half, bfloat16, double; afterwards it is as it was.

    What was not changed inside has its old values again, bit for bit.

    Example:
        >>> network = nn.Linear(2, 2).half()
        >>> with single_precision(network):
        ...     network.weight.dtype
        torch.float32
        >>> network.weight.dtype
        torch.float16
    """
    before = {name: tensor.data for name, tensor in _of_other_precision(network).items()}
    to_single(network)
    try:
        yield
    finally:
        tensors = _tensors_of(network)
        for name, old in before.items():
            if name in tensors:
                _give_back(tensors[name], old)


@torch.no_grad()
def _give_back(tensor: Tensor, old: Tensor) -> None:
    if torch.equal(tensor.data, old.float()):
        tensor.data = old
    else:
        most = min(torch.finfo(old.dtype).max, torch.finfo(torch.float32).max)
        tensor.data = tensor.data.clamp(-most, most).to(old.dtype)


def _of_other_precision(network: nn.Module) -> dict[str, Tensor]:
    return {
        name: tensor
        for name, tensor in _tensors_of(network).items()
        if tensor.dtype.is_floating_point and tensor.dtype != torch.float32
    }


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    named = chain(network.named_parameters(), network.named_buffers())
    return {name: tensor for name, tensor in named if not is_lazy(tensor)}


def steady_train_mode(network: ModuleT) -> ModuleT:
    """Put a network into train mode, and what varies or learns in it by itself into eval mode.

    The network and its parts of several modules do what they do in training (a detector gives raw
    outputs, say); norms keep their statistics, and dropout drops nothing.

    Example:
        >>> network = steady_train_mode(nn.Sequential(nn.BatchNorm2d(8), nn.Dropout()))
        >>> network.training, network[0].training, network[1].training
        (True, False, False)
    """
    network.train()
    for module in network.modules():
        if isinstance(module, _NormBase) or next(module.children(), None) is None:
            module.eval()
    return network
