"""Tensors nested in anything: the one walk over what networks take and give.

Tuples, lists, dicts, named tuples, whatever is registered with `torch.utils._pytree` (the outputs
of Hugging Face's networks are), data classes and other mappings. All else is kept as it is.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils import _pytree as pytree


class _Place:
    """Where a tensor stands."""


_PLACE = _Place()


@dataclass(frozen=True, eq=False)
class Frame:
    """A nested structure without its tensors.

    Attributes:
        spec: The tuples, lists and dicts of it.
        leaves: What stands in them: the place of a tensor, a frame, anything else.
        holder: The data class or mapping that it is the content of; None for other structures.
    """

    spec: Any
    leaves: tuple[Any, ...]
    holder: Any = None

    def fill(self, tensors: Sequence[Tensor]) -> Any:
        """The structure with other tensors, as many as it had."""
        return self._fill(iter(tensors))

    def _fill(self, tensors: Iterator[Tensor]) -> Any:
        filled = [_leaf(leaf, tensors) for leaf in self.leaves]
        content = pytree.tree_unflatten(filled, self.spec)
        return content if self.holder is None else _with_content(self.holder, content)

    def is_like(self, other: Frame) -> bool:
        """Whether two are the same but for their tensors."""
        return (
            type(self.holder) is type(other.holder)
            and self.spec == other.spec
            and all(_alike(a, b) for a, b in zip(self.leaves, other.leaves, strict=True))
        )


def open_nested(value: Any) -> tuple[list[Tensor], Frame]:
    """The tensors of a structure, in order, and what puts others into their places.

    Example:
        >>> import torch
        >>> tensors, frame = open_nested({"a": torch.ones(1), "b": (torch.zeros(2), "text")})
        >>> [len(tensor) for tensor in tensors], frame.fill([1, 2])
        ([1, 2], {'a': 1, 'b': (2, 'text')})
    """
    tensors: list[Tensor] = []
    return tensors, _open(value, tensors)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a structure, in order."""
    return [value] if isinstance(value, Tensor) else open_nested(value)[0]


def floats_in(value: Any) -> list[Tensor]:
    """The tensors of a structure that hold floating-point numbers."""
    return [tensor for tensor in tensors_in(value) if tensor.dtype.is_floating_point]


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The structure with each tensor changed; the structure itself stays as it is."""
    if isinstance(value, Tensor):
        return change(value)
    tensors, frame = open_nested(value)
    return frame.fill([change(tensor) for tensor in tensors])


def _open(value: Any, tensors: list[Tensor], holder: Any = None) -> Frame:
    flat, spec = pytree.tree_flatten(value)
    leaves: list[Any] = []
    for leaf in flat:
        if isinstance(leaf, Tensor):
            tensors.append(leaf)
            leaves.append(_PLACE)
        elif _is_data(leaf):
            names = [field.name for field in dataclasses.fields(leaf)]
            content = {name: getattr(leaf, name) for name in names if hasattr(leaf, name)}
            leaves.append(_open(content, tensors, leaf))
        elif isinstance(leaf, MutableMapping):
            leaves.append(_open(dict(leaf), tensors, leaf))
        else:
            leaves.append(leaf)
    return Frame(spec, tuple(leaves), holder)


def _is_data(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _leaf(leaf: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(leaf, _Place):
        return next(tensors)
    return leaf._fill(tensors) if isinstance(leaf, Frame) else leaf


def _with_content(holder: Any, content: dict[str, Any]) -> Any:
    """A data class or mapping like the holder, with other values."""
    made = copy.copy(holder)
    for name, value in content.items():
        if _is_data(holder):
            object.__setattr__(made, name, value)
        else:
            made[name] = value
    return made


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, Frame) and isinstance(other, Frame):
        return one.is_like(other)
    if one is other:
        return True
    try:
        return type(one) is type(other) and bool(one == other)
    except Exception:  # arrays, and whatever else has no single answer
        return False
