"""Layout: along which dimension of each value of a graph the channels lie.

Layers say where their channels are; from there the dimension is followed through what moves it
(permutations, reshapes) and what keeps it, node by node. Where it is split (into heads, say) or
mixed with others, nothing is known.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.ghost import GhostConv
from ghostify.nn.ghost_linear import GhostLinear

FIRST = 1
"""The dimension of the channels in maps ``(N, C, H, W)``."""

Dims = dict[fx.Node, int]
"""For a value (or the values of a tuple) the dimension of its channels."""


def channel_dims(
    graph: fx.Graph,
    module: nn.Module,
    values: Mapping[fx.Node, Any],
    given: Mapping[fx.Node, int] | None = None,
) -> Dims:
    """Follow the channels through a graph.

    Args:
        graph: The graph.
        module: The module it was traced from.
        values: The value of each node (see `propagate`).
        given: What is known already, of the inputs above all.

    Returns:
        The dimensions, never negative, of the values of which it is known.
    """
    dims = dict(given or {})
    for node in graph.nodes:
        if node not in dims and node in values:
            dim = _dim_of(node, module, values, dims)
            if dim is not None:
                dims[node] = dim
    return dims


def _dim_of(
    node: fx.Node, module: nn.Module, values: Mapping[fx.Node, Any], dims: Dims
) -> int | None:
    out = _tensor(values[node])
    if out is None:
        return None
    layer = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    own = _made_by(node, layer, out)
    if own is not None:
        return own
    for source in node.all_input_nodes:
        before = _tensor(values.get(source))
        if source in dims and before is not None:
            dim = _followed(node, layer, before, dims[source], out)
            if dim is not None:
                return dim
    return out.ndim - 1 if type(layer) is nn.LayerNorm else None


def _tensor(value: Any) -> Tensor | None:
    """A tensor, or the first of those in a list or tuple."""
    if isinstance(value, list | tuple) and value:
        value = value[0]
    return value if isinstance(value, Tensor) else None


def _made_by(node: fx.Node, layer: nn.Module | None, out: Tensor) -> int | None:
    """The dimension that a layer gives its channels in, whatever it is given."""
    if isinstance(layer, _ConvNd | GhostConv):
        dim = out.ndim - len(layer.kernel_size) - 1
    elif node.target is F.conv2d:
        dim = out.ndim - 3
    elif isinstance(layer, nn.Linear | GhostLinear) or node.target is F.linear:
        dim = out.ndim - 1
    elif isinstance(layer, _NormBase | nn.GroupNorm) and out.ndim > 1:
        dim = FIRST
    else:
        return None
    return dim if dim >= 0 else None


def _followed(
    node: fx.Node, layer: nn.Module | None, before: Tensor, dim: int, out: Tensor
) -> int | None:
    """Where the channels of an input, along ``dim``, lie in what a node makes of it."""
    if layer is not None and not any(True for _ in layer.parameters()):
        tried = _probed(layer, before, dim, out)
        if tried is not None:
            return tried
    rule = _MOVES.get(node.target) if node.op != "call_module" else None
    if rule is not None:
        return rule(node, before, dim, out)
    if before.ndim == out.ndim and (
        before.shape[dim] == out.shape[dim] or node.target in _KEEP_THE_DIMENSION
    ):
        return dim
    return None


def _probed(layer: nn.Module, before: Tensor, dim: int, out: Tensor) -> int | None:
    """The dimension that changes in a layer's output where the channels are twice as many."""
    shape = list(before.shape)
    shape[dim] *= 2
    try:
        with torch.no_grad():
            wider = layer(torch.empty(shape, dtype=before.dtype, device=before.device))
    except Exception:
        return None
    if not isinstance(wider, Tensor) or wider.ndim != out.ndim:
        return None
    changed = [i for i, (a, b) in enumerate(zip(out.shape, wider.shape, strict=True)) if a != b]
    return changed[0] if len(changed) == 1 else None


# Rules for functions and methods that move dimensions: from the node, its input, the dimension of
# its channels and its output to theirs.
_Rule = Callable[[fx.Node, Tensor, int, Tensor], int | None]


def _numbers(node: fx.Node, *names: str) -> Iterator[int]:
    """The whole numbers that a node is given behind its input; a list counts as its items."""
    given = list(node.args[1:]) or [node.kwargs[name] for name in names if name in node.kwargs]
    for item in given:
        for number in item if isinstance(item, list | tuple) else (item,):
            if isinstance(number, int) and not isinstance(number, bool):
                yield number


def _permuted(node: fx.Node, before: Tensor, dim: int, out: Tensor) -> int | None:
    order = [number % before.ndim for number in _numbers(node, "dims")]
    return order.index(dim) if len(order) == before.ndim else None


def _swapped(node: fx.Node, before: Tensor, dim: int, out: Tensor) -> int | None:
    pair = [n % before.ndim for n in _numbers(node, "dim0", "dim1", "axis0", "axis1")]
    if len(pair) != 2:
        return None
    return pair[1 - pair.index(dim)] if dim in pair else dim


def _moved(node: fx.Node, before: Tensor, dim: int, out: Tensor) -> int | None:
    pair = [n % before.ndim for n in _numbers(node, "source", "destination")]
    if len(pair) != 2:
        return None
    order = [other for other in range(before.ndim) if other != pair[0]]
    order.insert(pair[1], pair[0])
    return order.index(dim)


def _reshaped(node: fx.Node, before: Tensor, dim: int, out: Tensor) -> int | None:
    """The dimension of the same size with as many values before it."""
    ahead, size = prod(before.shape[:dim]), before.shape[dim]
    for place in range(out.ndim):
        if out.shape[place] == size and prod(out.shape[:place]) == ahead:
            return place
    return None


def _reduced(node: fx.Node, before: Tensor, dim: int, out: Tensor) -> int | None:
    """A mean or sum over other dimensions."""
    if out.ndim == before.ndim:
        return dim if out.shape[dim] == before.shape[dim] else None
    gone = {number % before.ndim for number in _numbers(node, "dim", "axis")}
    left = [other for other in range(before.ndim) if other not in gone]
    return left.index(dim) if dim in left and len(left) == out.ndim else None


_MOVES: dict[Any, _Rule] = {
    **dict.fromkeys(("permute", torch.permute), _permuted),
    **dict.fromkeys(
        ("transpose", torch.transpose, "swapaxes", torch.swapaxes, "swapdims", torch.swapdims),
        _swapped,
    ),
    **dict.fromkeys(("movedim", torch.movedim, "moveaxis", torch.moveaxis), _moved),
    **dict.fromkeys(
        (
            "view", "reshape", torch.reshape, "flatten", torch.flatten, "unflatten",
            torch.unflatten, "squeeze", torch.squeeze, "unsqueeze", torch.unsqueeze,
        ),
        _reshaped,
    ),
    **dict.fromkeys(
        ("mean", torch.mean, "sum", torch.sum, "amax", torch.amax, "amin", torch.amin), _reduced
    ),
    **dict.fromkeys(
        ("matmul", torch.matmul, operator.matmul, torch.bmm, torch.einsum, getattr),
        lambda *_: None,
    ),
}  # fmt: skip

_KEEP_THE_DIMENSION = frozenset(
    {
        torch.cat, torch.concat, torch.split, torch.chunk, "split", "chunk", "narrow",
        torch.narrow, torch.split_with_sizes, "split_with_sizes", operator.getitem,
    }
)  # fmt: skip
"""Ops whose result may have more or fewer channels, along the dimension that they had."""
