"""Random numbers that follow from their key alone: the same in any order and in any process."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def draws(key: tuple[int, ...], indices: list[int], count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that depend on ``(key, index)`` alone.

    Args:
        key: What else they depend on: the seed and the epoch, say.
        indices: Of the images.
        count: How many for each.

    Returns:
        ``(len(indices), count)``.

    Example:
        >>> together = draws((0, 1), [3, 4], 2)
        >>> bool((together[1] == draws((0, 1), [4], 2)[0]).all())
        True
    """
    rows = [np.random.default_rng(_entropy(*key, index)).random(count) for index in indices]
    return np.array(rows).reshape(len(indices), count)


def derive(*key: int) -> int:
    """A seed that depends on some numbers."""
    state = np.random.SeedSequence(_entropy(*key)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def permutation(count: int, *key: int) -> list[int]:
    """The numbers below ``count`` in an order that depends on ``key``."""
    generator = torch.Generator().manual_seed(derive(*key))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def _entropy(*key: int) -> list[int]:
    """NumPy's seeds are not negative."""
    return [part % 2**64 for part in key]
