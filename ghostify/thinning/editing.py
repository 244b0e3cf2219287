"""Editing a block's graph so that it runs on thin maps.

Where a shortcut's width does not fit it gets a projection, widths written into the code are scaled,
and parameters that the code reads itself are cut.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostify.graph.execution import Env, Executor
from ghostify.graph.layout import FIRST, Dims
from ghostify.graph.trace import frozen_tensors
from ghostify.nn.carving import cut_vector
from ghostify.nn.filters import CONVS
from ghostify.thinning.rescaling import ALWAYS_RESCALED, rescaled_arguments
from ghostify.thinning.slicers import NotScalable
from ghostify.thinning.thin import Shortcut, ThinRecipe
from ghostify.thinning.values import Value, alike

SHORTCUT = "shortcut_projection"
"""Name of the projection that a thin block gets where its shortcut's width doesn't fit."""

_ADDITIONS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})


class GraphEditor:
    """Computes the thin values of a block's nodes, and edits the nodes that do not work on them.

    Args:
        block: The block on the meta device.
        recipe: How it gets thin; its graph is edited, and what is added and cut noted in it.
        originals: The value of each node in the block.
        dims: The dimensions that their channels lie along, where known.

    Attributes:
        values: The values so far of the nodes that depend on the block's input; filled by the
            caller, node by node.
    """

    def __init__(self, block: nn.Module, recipe: ThinRecipe, originals: Env, dims: Dims) -> None:
        self.recipe, self.originals, self.dims = recipe, originals, dims
        self.values: dict[fx.Node, Value] = {}
        self._executor = Executor(recipe.graph, block)

    def inputs(self, node: fx.Node) -> list[Value]:
        """What a node takes, but for parameters and what is made of them alone."""
        return [self.values[other] for other in node.all_input_nodes if other in self.values]

    def compute(self, node: fx.Node) -> Any:
        """What a node gives on thin values, itself edited where needed.

        Raises:
            NotScalable: It works with no arguments that are tried.
        """
        if node.target in _ADDITIONS:
            self._fit_shortcut(node)
        tries, failure = rescaled_arguments(node, self.values), ""
        if node.target in ALWAYS_RESCALED:
            failure = "(its widths are written into the code)"
        else:
            tries = chain([(node.args, node.kwargs)], tries)
        for args, kwargs in tries:
            try:
                thin = self._run(node, args, kwargs, self.inputs(node))
            except NotScalable:
                raise
            except Exception:
                failure = failure or f"of {self._thin_shapes(node)}"
                continue
            if alike(thin, self.originals[node]):
                self._take(node, args, kwargs)
                return thin
            failure = failure or "(its result has another form)"
        raise NotScalable(f"{node.name} does not work on thin maps {failure}")

    def _take(self, node: fx.Node, args: Any, kwargs: Any) -> None:
        if (args, kwargs) != (node.args, node.kwargs):
            self._require_own_code(node)
            node.args, node.kwargs = args, kwargs
            self.recipe.is_edited = True

    def _require_own_code(self, node: fx.Node) -> None:
        if self.recipe.is_recorded:
            raise NotScalable(
                f"{node.name} does not work on thin maps as it is, and its code does not trace"
            )

    def _thin_shapes(self, node: fx.Node) -> str:
        """Shapes of the thin maps that a node takes: what says why it fails on them."""
        thin = [value.thin for value in self.inputs(node)]
        shapes = ["x".join(map(str, x.shape)) for x in thin if isinstance(x, Tensor)]
        return " and ".join(shapes) or "another width"

    def _run(self, node: fx.Node, args: Any, kwargs: Any, beside: Sequence[Value]) -> Any:
        """Run a node on thin values; a tensor of one value for each channel of these is cut."""

        def thin(other: fx.Node) -> Any:
            if other in self.values:
                return self.values[other].thin
            if other.op == "get_attr":
                return self._cut(other, beside)
            return self._run(other, other.args, other.kwargs, beside)

        args, kwargs = fx.node.map_arg(args, thin), fx.node.map_arg(kwargs, thin)
        return self._executor.apply(node, args, kwargs)

    def _cut(self, node: fx.Node, beside: Sequence[Value]) -> Any:
        tensor, name = self.originals[node], str(node.target)
        kept = _kept_entries(tensor, beside)
        if kept is None:
            return tensor
        if frozen_tensors([node]):
            raise NotScalable("a block of it makes a tensor with a value for each channel")
        if not torch.equal(self.recipe.vectors.setdefault(name, kept), kept):
            raise NotScalable(f"{name} is used twice, on different channels")
        return cut_vector(tensor, tensor.numel(), kept)

    def _fit_shortcut(self, node: fx.Node) -> None:
        """Put a projection into a sum's direct side where its width is not the other side's."""
        sides = [arg for arg in node.args if isinstance(arg, fx.Node) and arg in self.values]
        if len(sides) != 2:
            return
        one, other = (self.values[side] for side in sides)
        tensors = isinstance(one.thin, Tensor) and isinstance(other.thin, Tensor)
        if not tensors or one.original.shape != other.original.shape:
            return
        if one.thin.shape == other.thin.shape or one.is_direct == other.is_direct:
            return
        direct, wanted = (sides[0], other) if one.is_direct else (sides[1], one)
        self._project(node, direct, wanted)

    def _project(self, node: fx.Node, direct: fx.Node, wanted: Value) -> None:
        """Project what ``direct`` gives to ``node`` to the channels of another value."""
        self._require_own_code(node)
        recipe, value = self.recipe, self.values[direct]
        name = SHORTCUT if not recipe.shortcuts else f"{SHORTCUT}_{len(recipe.shortcuts)}"
        arriving, leaving = value.channels(), wanted.channels()
        dim = value.channel_dim
        dims = value.thin.ndim - 2
        if dims not in CONVS or (dim != FIRST and dims != 2):
            raise NotScalable("a shortcut of it has another width, and is no map")
        recipe.shortcuts[name] = Shortcut(arriving, leaving, dim != FIRST, dims)
        recipe.is_edited = True
        with recipe.graph.inserting_before(node):
            projected = recipe.graph.call_module(name, (direct,))
        node.replace_input_with(direct, projected)
        shape = [*value.thin.shape]
        shape[dim] = len(leaving)
        self.values[projected] = Value(
            wanted.original, value.thin.new_empty(shape), leaving, dim=value.dim
        )


def _kept_entries(tensor: Any, beside: Sequence[Value]) -> Tensor | None:
    """Which entries stay of a tensor that has one for each channel of a value beside it."""
    size = tensor.numel() if isinstance(tensor, Tensor) else 0
    if size < 2 or size not in tensor.shape:
        return None
    for value in beside:
        for dim in value.changed_dims:
            if value.original.shape[dim] == size:
                ids = value.channels(dim)
                return ids if int(ids.max()) < size else torch.arange(len(ids))
    return None
