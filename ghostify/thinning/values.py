"""Values of a block's nodes, in the block and in its thin version, and which channels they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from ghostify.graph.layout import FIRST


@dataclass
class Value:
    """A node's value in the original block and in the thin one.

    Attributes:
        original: In the original, on the meta device.
        thin: In the thin block.
        ids: Which of the original's channels those of the thin value are; None where not known.
        is_direct: Whether it comes from the block's input through no layer.
        dim: The dimension that its channels lie along; None where not known.
    """

    original: Any
    thin: Any
    ids: Tensor | None = None
    is_direct: bool = False
    dim: int | None = None

    @property
    def is_whole(self) -> bool:
        """Whether it is a tensor that is as wide as in the original."""
        return isinstance(self.thin, Tensor) and self.thin.shape == self.original.shape

    @property
    def changed_dims(self) -> list[int]:
        """The dimensions in which the thin tensor is thinner; none of what is no tensor."""
        if not isinstance(self.original, Tensor):
            return []
        pairs = enumerate(zip(self.original.shape, self.thin.shape, strict=True))
        return [dim for dim, (size, thin) in pairs if size != thin]

    @property
    def channel_dim(self) -> int:
        """The dimension of the channels: that which is known or else changed, or the usual one."""
        if self.dim is not None:
            return self.dim
        changed = self.changed_dims
        return changed[0] if len(changed) == 1 else FIRST

    def channels(self, dim: int | None = None) -> Tensor:
        """The channels along ``dim``, ``(channels,)``; the first where they are not known."""
        count = self.thin.shape[self.channel_dim if dim is None else dim]
        known = self.ids is not None and len(self.ids) == count
        return self.ids if known and self.ids is not None else torch.arange(count)


def ids_of_result(
    node: fx.Node, original: Any, thin: Any, values: Mapping[fx.Node, Value], dim: int | None
) -> Tensor | None:
    """The channels of what a node makes that is no layer, ``(channels,)``; None where not known.

    They are those of its input, or of what it concatenates.

    Args:
        node: The node.
        original: What it gives in the block.
        thin: What it gives in the thin one.
        values: The values so far.
        dim: The dimension that the channels of its result lie along; None where not known.
    """
    if not isinstance(thin, Tensor):
        return None
    if node.target in (torch.cat, torch.concat):
        return _concatenated(node, values)
    own = Value(original, thin, dim=dim).channel_dim
    for value in (values[other] for other in node.all_input_nodes if other in values):
        if value.ids is None or not isinstance(value.thin, Tensor):
            continue
        source = value.channel_dim
        if value.thin.shape[source : source + 1] == thin.shape[own : own + 1]:
            return value.ids
    return None


def _concatenated(node: fx.Node, values: Mapping[fx.Node, Value]) -> Tensor | None:
    found, offset = [], 0
    parts: Any = node.args[0]
    for part in parts:
        value = values.get(part)
        if value is None or value.original.ndim < 2:
            return None
        found.append(value.channels() + offset)
        offset += value.original.shape[value.channel_dim]
    return torch.cat(found)


def alike(thin: Any, original: Any) -> bool:
    """Whether two values have the same form: as many tensors, with as many dimensions."""
    leaves = pytree.tree_leaves(thin), pytree.tree_leaves(original)
    forms = [[(type(leaf), getattr(leaf, "ndim", None)) for leaf in both] for both in leaves]
    return forms[0] == forms[1]
