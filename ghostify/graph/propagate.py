"""The value of every node of a graph, on the meta device: shapes without data."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree


def propagate(graph: fx.Graph, module: nn.Module, args: Sequence[Any]) -> dict[fx.Node, Any]:
    """Run a graph node by node; what comes after a node that can't be run has no value.

    Args:
        graph: A graph of ``module``.
        module: The module, its tensors on the meta device.
        args: Positional arguments of its forward; the others are taken from the graph's defaults.
    """
    values: dict[fx.Node, Any] = {}
    given = iter(map(_to_meta, args))
    with torch.no_grad():
        for node in graph.nodes:
            try:
                if node.op == "placeholder":
                    values[node] = next(given, node.args[0] if node.args else None)
                else:
                    values[node] = evaluate(node, module, values)
            except Exception:
                break
    return values


def evaluate(node: fx.Node, module: nn.Module, values: Mapping[fx.Node, Any]) -> Any:
    """The value of a node that is no placeholder."""
    args = fx.node.map_arg(node.args, values.__getitem__)
    kwargs = fx.node.map_arg(node.kwargs, values.__getitem__)
    return apply(node, module, args, kwargs)


def apply(node: fx.Node, module: nn.Module, args: Any, kwargs: Any) -> Any:
    """Execute a node on given arguments."""
    if node.op == "call_module":
        return module.get_submodule(str(node.target))(*args, **kwargs)
    if node.op == "get_attr":
        return operator.attrgetter(str(node.target))(module)
    if node.op == "call_method":
        return getattr(args[0], str(node.target))(*args[1:], **kwargs)
    if node.op == "output":
        return args[0]
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _to_meta(value: Any) -> Any:
    def hollow(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and leaf.device.type != "meta":
            return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta")
        return leaf

    return pytree.tree_map(hollow, value)
