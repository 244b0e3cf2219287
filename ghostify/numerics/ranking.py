"""Ranking numbers so that rounding doesn't decide: what is equal but for noise goes by its index.

Sums differ in their last digits from one processor, thread count or batch size to the next. Two
values that are equal in exact arithmetic would be ranked by that; here the smaller index is first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

NOISE = 1e-6
"""Part of a value that single precision and its sums don't fix."""

FLOOR = 1e-10
"""Part of the largest value below which all are noise."""

ItemT = TypeVar("ItemT")


def exceeds(one: float, other: float) -> bool:
    """Whether a number is larger than another by more than noise.

    Example:
        >>> exceeds(1.0, 1.0 - 1e-9), exceeds(1.0, 0.99)
        (False, True)
    """
    if not (math.isfinite(one) and math.isfinite(other)):
        return one > other
    return one - other > NOISE * max(abs(one), abs(other))


def first_largest(values: Tensor, dim: int = 0) -> Tensor:
    """Along a dimension, the first index whose value is the largest but for noise.

    Example:
        >>> first_largest(torch.tensor([0.5, 1 - 1e-9, 1.0])).item()
        1
    """
    largest = values.amax(dim, keepdim=True)
    near = values >= largest - _width(largest, values)
    return (near | (values == largest)).int().argmax(dim)


def first_smallest(values: Tensor, dim: int = 0) -> Tensor:
    """Along a dimension, the first index whose value is the smallest but for noise."""
    return first_largest(-values, dim)


def ascending(values: Tensor) -> Tensor:
    """Indices that sort ``(n,)`` numbers; where they differ by noise alone, by index.

    Values that lie closer together than noise form a group; a long one is cut, so that no value
    passes another by more than the noise.

    Example:
        >>> ascending(torch.tensor([2.0, 1.0 + 1e-9, 1.0])).tolist()
        [1, 2, 0]
    """
    values = values.detach().double().cpu()
    order = values.argsort(stable=True)
    if len(order) < 2:
        return order
    ranked = values[order]
    width = _width(ranked, ranked)
    starts = torch.ones(len(ranked), dtype=torch.bool)
    starts[1:] = ranked[1:] - ranked[:-1] > width[1:]
    group = starts.cumsum(0) - 1
    heads = ranked[starts][group]
    cut = ((ranked - heads) / width[starts][group].clamp_min(1e-300)).nan_to_num(0, 0, 0).floor()
    fresh = starts.clone()
    fresh[1:] |= cut[1:] != cut[:-1]
    key = fresh.cumsum(0)
    return key[order.argsort()].argsort(stable=True)  # of each index its group, in that order


def descending(values: Tensor) -> Tensor:
    """Indices that sort ``(n,)`` numbers, the largest first; equal but for noise, by index."""
    return ascending(-values)


def ranked(items: Iterable[ItemT], value: Callable[[ItemT], float]) -> list[ItemT]:
    """Items, the one of the largest value first; equal but for noise, as they came."""
    known = list(items)
    values = torch.tensor([value(item) for item in known], dtype=torch.float64)
    return [known[index] for index in descending(values).tolist()]


def _width(values: Tensor, of: Tensor) -> Tensor:
    """Noise of some values, the largest finite one of all of them given."""
    finite = of.abs().where(of.isfinite(), 0.0)
    floor = FLOOR * (finite.max() if finite.numel() else finite.sum())
    return NOISE * values.abs().where(values.isfinite(), 0.0) + floor
