"""Train and eval mode of networks whose parts may each have their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

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
