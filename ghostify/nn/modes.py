"""Train and eval mode of networks whose parts may each have their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


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
    modes = {module: module.training for network in networks for module in network.modules()}
    try:
        for network in networks:
            network.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training
