"""How tensors lie in memory, as plain data and back.

Kernels in channels_last, or transposed ones, make PyTorch choose other algorithms, which round
differently: outputs are equal to the last bit only with the same strides, even those of dimensions
of size 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Strides = Mapping[str, tuple[int, ...]]
"""Of tensors by their names."""

LARGEST = 2**40


def describe_strides(tensors: Mapping[str, Any], channels_last: bool) -> dict[str, list[int]]:
    """The strides of those tensors that don't have the usual ones.

    Example:
        >>> describe_strides({"a": torch.zeros(2, 3), "b": torch.zeros(2, 3).T}, False)
        {'b': [1, 3]}
    """
    return {
        name: list(tensor.stride())
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.stride() != usual(tensor.shape, channels_last)
        and fits(tensor.shape, tensor.stride())
    }


def parse_strides(found: Any) -> dict[str, tuple[int, ...]]:
    """Read what `describe_strides` wrote.

    Raises:
        TypeError: It is something else.
    """
    if not isinstance(found, Mapping):
        raise TypeError(f"strides are a {type(found).__name__}, not a mapping")
    for name, strides in found.items():
        whole = isinstance(strides, list) and all(type(step) is int for step in strides)
        if not isinstance(name, str) or not whole:
            raise TypeError("strides are not whole numbers for each name")
    return {name: tuple(strides) for name, strides in found.items()}


def laid_out(tensor: Tensor, strides: Sequence[int]) -> Tensor:
    """The same values with other strides; as they are where the tensor can't have those."""
    if tensor.stride() == tuple(strides) or not fits(tensor.shape, strides):
        return tensor
    empty = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    return empty.copy_(tensor)


def fits(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides put a tensor's elements side by side, none of them twice and no gaps.

    Example:
        >>> fits((2, 3), (1, 2)), fits((2, 3), (0, 1)), fits((2, 3), (4, 1))
        (True, False, False)
    """
    if len(strides) != len(shape) or not all(0 <= step <= LARGEST for step in strides):
        return False
    expected = 1
    for step, size in sorted((t, n) for t, n in zip(strides, shape, strict=True) if n > 1):
        if step != expected:
            return False
        expected *= size
    return True


def usual(shape: Sequence[int], channels_last: bool) -> tuple[int, ...]:
    """The strides of a new tensor: row by row, or for four dimensions with the channels last."""
    last = channels_last and len(shape) == 4
    chosen = torch.channels_last if last else torch.contiguous_format
    return torch.empty(tuple(shape), device="meta", memory_format=chosen).stride()
