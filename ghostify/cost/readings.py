"""Values that a forward pass reads from its data, and that its path depends on.

Recorded in one run for real, they lead a run on shapes the same way: that of the same network, or
of the one that it was converted to.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

TAGS = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
"""PyTorch's own marks on the ops whose output, or its shape, depends on values."""

METHODS = frozenset({Tensor.tolist, Tensor.numpy, Tensor.__array__})
"""Methods that hand over values without an op."""


@dataclass(frozen=True)
class _Shape:
    """A tensor without its data."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def make(self, device: str) -> Tensor:
        return torch.empty_strided(self.size, self.stride, dtype=self.dtype, device=device)


class Readings:
    """Readings in order, by the module in whose forward they were taken and by op.

    Args:
        ran_on: What the network was run on for real.
        shapes_end: Where shapes alone carried it no further.
    """

    def __init__(self, ran_on: str, shapes_end: str) -> None:
        self.ran_on, self.shapes_end = ran_on, shapes_end
        self._noted: dict[tuple[str, str], list[Any]] = {}
        self._taken: Counter[tuple[str, str]] = Counter()

    def note(self, module: str, op: str, value: Any) -> None:
        """Record what was read; of tensors the shape."""
        plain = pytree.tree_map(_without_data, value)
        self._noted.setdefault((module, op), []).append(copy.deepcopy(plain))

    def again(self) -> Readings:
        """The same readings from the first on."""
        twin = Readings(self.ran_on, self.shapes_end)
        twin._noted = self._noted
        return twin

    def take(self, module: str, op: str) -> Callable[[str], Any] | None:
        """The next reading, as a function of the device for its tensors; None if there is none."""
        place = module, op
        noted, index = self._noted.get(place, ()), self._taken[place]
        self._taken[place] += 1
        return _maker(noted[index]) if index < len(noted) else None


def _without_data(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return _Shape(leaf.shape, leaf.stride(), leaf.dtype)
    return leaf


def _maker(value: Any) -> Callable[[str], Any]:
    def make(device: str) -> Any:
        return pytree.tree_map(
            lambda leaf: leaf.make(device) if isinstance(leaf, _Shape) else copy.deepcopy(leaf),
            value,
        )

    return make


@cache
def reads_data(op: Any) -> bool:
    """Whether an op's output, or its shape, may depend on values: any op but PyTorch's may."""
    return not TAGS.isdisjoint(op.tags) or not op._schema.name.startswith(("aten::", "prim"))


class Methods(TorchFunctionMode):
    """Calls of `METHODS`, given to a function of their name and of the call itself."""

    def __init__(self, on_call: Callable[[str, Callable[[], Any]], Any]) -> None:
        super().__init__()
        self._on_call = on_call

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        if func in METHODS:
            return self._on_call(func.__name__, lambda: func(*args, **(kwargs or {})))
        return func(*args, **(kwargs or {}))
