"""The global random state: as it was, whatever runs inside."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def keep_random_state(seed: int | None = None) -> Iterator[None]:
    """Leave the global generators of Python, NumPy and PyTorch as they were; a decorator too.

    Constructors of modules, loaders, and networks whose own forward draws (dropout, stochastic
    depth) use them.

    Args:
        seed: Where all of them begin inside; None: where they are.

    Example:
        >>> before = torch.get_rng_state()
        >>> with keep_random_state():
        ...     _ = torch.rand(3)
        >>> torch.equal(before, torch.get_rng_state())
        True
    """
    # A device that was not used yet is not waked for this; what begins to use one is a caller's.
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    plain, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=devices):
        if seed is not None:
            seed_torch(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            random.setstate(plain)
            np.random.set_state(array)


def seed_torch(seed: int) -> None:
    """Seed PyTorch's generators, those of the devices that are in use.

    `torch.manual_seed` would also seed a device that is used for the first time much later.
    """
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
