"""Chance that follows from numbers alone: the same for any order of asking, and any process."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

Words = NDArray[np.uint64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FACTORS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


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
    words = _mix(_fold(key) + np.array(indices, dtype=np.uint64) * _STEP)
    places = np.arange(1, count + 1, dtype=np.uint64) * _STEP
    whole = _mix(words[:, None] + places) >> np.uint64(11)
    return whole.astype(np.float64) * 2.0**-53


def derive(*key: int) -> int:
    """A seed that depends on some numbers."""
    return int(_fold(key)[0] >> np.uint64(1))


def permutation(count: int, *key: int) -> list[int]:
    """The numbers below ``count`` in an order that depends on ``key``."""
    generator = torch.Generator().manual_seed(derive(*key))
    order: list[int] = torch.randperm(count, generator=generator).tolist()
    return order


def _fold(key: tuple[int, ...]) -> Words:
    word = np.zeros(1, dtype=np.uint64)
    for part in key:
        word = _mix(word + np.array([part % 2**64], dtype=np.uint64) + _STEP)
    return word


def _mix(words: Words) -> Words:
    """The finaliser of SplitMix64 (Steele et al., 2014)."""
    words = (words ^ (words >> np.uint64(30))) * _FACTORS[0]
    words = (words ^ (words >> np.uint64(27))) * _FACTORS[1]
    return words ^ (words >> np.uint64(31))
