"""What a node gives in a block and in its thin version, and which channels those are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree


@dataclass
class Value:
    """A node's value in the original block and in the thin one.

    Attributes:
        original: In the original, on the meta device.
        thin: In the thin block.
        ids: Which of the original's channels those of the thin value are; None where not known.
        is_direct: Whether it comes from the block's input through no layer.
    """

    original: Any
    thin: Any
    ids: Tensor | None = None
    is_direct: bool = False


def concatenated_ids(node: fx.Node, values: Mapping[fx.Node, Value]) -> Tensor | None:
    """The channels of what is concatenated; None where a part has no channels."""
    found, offset = [], 0
    parts: Any = node.args[0]
    for part in parts:
        value = values.get(part)
        if value is None or value.original.ndim < 2:
            return None
        found.append(ids_of(value) + offset)
        offset += value.original.shape[1]
    return torch.cat(found)


def ids_of(value: Value, dim: int = 1) -> Tensor:
    """The channels of a thin value; where they are not known, as many of the first."""
    channels = value.thin.shape[dim]
    known = value.ids is not None and len(value.ids) == channels
    return value.ids if known and value.ids is not None else torch.arange(channels)


def changed_dim(value: Value, default: int) -> int:
    """The dimension in which the thin value is thinner."""
    pairs = enumerate(zip(value.original.shape, value.thin.shape, strict=True))
    changed = [dim for dim, (size, thin) in pairs if size != thin]
    return changed[0] if len(changed) == 1 else default


def alike(thin: Any, original: Any) -> bool:
    """Whether two values have the same form: as many tensors, with as many dimensions."""
    thins, originals = pytree.tree_leaves(thin), pytree.tree_leaves(original)
    if len(thins) != len(originals):
        return False
    return all(
        type(a) is type(b) and (not isinstance(a, Tensor) or a.ndim == b.ndim)
        for a, b in zip(thins, originals, strict=True)
    )
