"""How a block gets thin: replayed node by node with scaled layers, as wide as what arrives.

The replay works on a block's shadow and finds which channels every layer keeps, where a shortcut
needs a projection, and which widths are written into the code.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.chains import depends_on_input
from ghostify.graph.failure import describe_error
from ghostify.graph.propagate import apply, propagate
from ghostify.graph.trace import LAYERS, BlockTracer, frozen_tensors
from ghostify.nn.carving import cut_vector
from ghostify.thinning.rescaling import ALWAYS_RESCALED, rescaled_arguments
from ghostify.thinning.scaling import Arriving, NotScalable, Widths, scaler_for
from ghostify.thinning.thin import ThinRecipe
from ghostify.thinning.values import Value, alike, changed_dim, concatenated_ids, ids_of

SHORTCUT = "shortcut_projection"
"""Name of the projection that a thin block gets where its shortcut's width doesn't fit."""

_ADDITIONS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})


@dataclass(frozen=True)
class Wanted:
    """Which channels a thin block should keep, where its layers are free to choose.

    Attributes:
        leaving: Of what it gives, ``(r,)``; None for the first.
        inside: Of what layers inside it give, by their names; the first of all others.
    """

    leaving: Tensor | None = None
    inside: Mapping[str, Tensor] = field(default_factory=dict)


def replay(
    block: nn.Module,
    x: Tensor,
    arriving: Tensor,
    widths: Widths,
    thin_inside: bool = True,
    wanted: Wanted | None = None,
) -> ThinRecipe:
    """Find how a block gets thin.

    Args:
        block: The block on the meta device, in eval mode.
        x: Its input in the original network, ``(N, c, H, W)`` on the meta device.
        arriving: Which of those channels arrive in the thin network.
        widths: From original widths to thin ones.
        thin_inside: Whether the widths inside the block shrink too; else only those of what it
            takes and gives (attention, say, whose heads are written into the code).
        wanted: Which channels to keep; the first, if not given.

    Raises:
        NotScalable: Something in the block can't be made thinner; the message is the reason.
    """
    try:
        graph = BlockTracer().trace(block)
    except Exception as error:
        raise NotScalable(f"a block of it does not trace ({describe_error(error)})") from error
    return _Replay(block, graph, x, arriving, widths, thin_inside, wanted or Wanted()).run()


class _Replay:
    """One replay: the values so far, and the recipe that comes of them."""

    def __init__(
        self,
        block: nn.Module,
        graph: fx.Graph,
        x: Tensor,
        arriving: Tensor,
        widths: Widths,
        thin_inside: bool,
        wanted: Wanted,
    ) -> None:
        self.block, self.graph, self.widths, self._wanted = block, graph, widths, wanted
        self._inside = layers_inside(graph, block)
        self._full = set() if thin_inside else self._inside
        self._unchanged = replace(widths, thin=widths.channels, group_width=1.0, divisor=1)
        self.recipe = ThinRecipe(graph)
        self.originals = propagate(graph, block, (x,))
        self.dependent = depends_on_input(graph)
        self.values: dict[fx.Node, Value] = {}
        self._thin_layers: dict[str, nn.Module] = {}
        self._stays: set[str] = set()
        thin = x.new_empty(x.shape[0], len(arriving), *x.shape[2:])
        self._input = Value(x, thin, arriving, is_direct=True)

    def run(self) -> ThinRecipe:
        """Replay all nodes; the value of the output is checked by the caller."""
        for node in list(self.graph.nodes):
            if node not in self.originals:
                raise NotScalable(f"a block of it can't be run on its own (at {node.name})")
            if node.op == "placeholder":
                is_input = not any(v is self._input for v in self.values.values())
                original = self.originals[node]
                self.values[node] = self._input if is_input else Value(original, original)
            elif node.op == "output":
                self._finish(node)
            elif node in self.dependent:
                self.values[node] = self._value(node)
        return self.recipe

    def _finish(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node):
            raise NotScalable("a block of it gives more than one tensor")
        value = self.values[result]
        if not isinstance(value.thin, Tensor) or value.thin.shape[2:] != value.original.shape[2:]:
            raise NotScalable("a thin block of it gives another shape")
        if self.recipe.is_edited and any("training" in n.kwargs for n in self.graph.nodes):
            raise NotScalable("its code must change, and a trace would freeze its training mode")
        if self.recipe.is_edited and frozen_tensors(self.graph.nodes):
            raise NotScalable("its code must change, and a trace would freeze a tensor it makes")
        self.recipe.out_ids = ids_of(value)

    def _value(self, node: fx.Node) -> Value:
        if node.op == "call_module":
            layer = self.block.get_submodule(str(node.target))
            if node in self._full and self._takes_all(node):
                return self._whole(node, layer)
            if scaler_for(layer) is not None:
                return self._layer(node, layer)
        if node.target in _ADDITIONS:
            self._fit_shortcut(node)
        thin = self._compute(node)
        inputs = [self.values[other] for other in node.all_input_nodes if other in self.dependent]
        return Value(
            original=self.originals[node],
            thin=thin,
            ids=self._ids(node, thin, inputs),
            is_direct=all(value.is_direct for value in inputs),
        )

    def _takes_all(self, node: fx.Node) -> bool:
        """Whether all that a node takes is as wide as in the original."""
        values = [self.values[n] for n in node.all_input_nodes if n in self.dependent]
        return all(isinstance(v.thin, Tensor) and v.thin.shape == v.original.shape for v in values)

    # Layers

    def _whole(self, node: fx.Node, layer: nn.Module) -> Value:
        """A layer inside the block that stays as it is."""
        if str(node.target) in self.recipe.cuts:
            raise NotScalable(f"{node.target} is used twice, on different channels")
        inputs = [self.values[n] for n in node.all_input_nodes if n in self.dependent]
        is_direct = not isinstance(layer, LAYERS) and all(v.is_direct for v in inputs)
        self._stays.add(str(node.target))
        return Value(self.originals[node], self._compute(node), is_direct=is_direct)

    def _layer(self, node: fx.Node, layer: nn.Module) -> Value:
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or len(node.all_input_nodes) != 1:
            raise NotScalable(f"{node.target} takes more than one tensor")
        value = self.values[source]
        scaler = scaler_for(layer)
        assert scaler is not None
        dim = changed_dim(value, scaler.dim(layer, value.original))
        channels = value.thin.shape[dim]
        ids = value.ids if value.ids is not None and len(value.ids) == channels else None
        arriving = Arriving(
            channels=channels,
            ids=torch.arange(channels) if ids is None else ids,
            grouped=self._next_group_width(node),
            wanted=self._wanted_of(node, layer),
        )
        widths = self._unchanged if node in self._full else self.widths
        cut = scaler.decide(layer, arriving, widths)
        name = str(node.target)
        known = self.recipe.cuts.get(name, cut)
        if name in self._stays or not cut.same_as(known):
            raise NotScalable(f"{name} is used twice, on different channels")
        if name not in self.recipe.cuts:
            self.recipe.cuts[name] = cut
            self._thin_layers[name] = scaler.make(layer, cut)
        mixes = isinstance(layer, LAYERS)
        try:
            thin = self._thin_layers[name](value.thin)
        except Exception as error:
            raise NotScalable(f"{name} does not work when thin ({describe_error(error)})") from None
        ids = cut.outputs if mixes else value.ids
        return Value(self.originals[node], thin, ids, value.is_direct and not mixes)

    def _wanted_of(self, node: fx.Node, layer: nn.Module) -> Tensor | None:
        """Which outputs of a layer to keep: what the block gives shares its last layers' choice."""
        if node in self._inside:
            return self._wanted.inside.get(str(node.target))
        width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        return self._wanted.leaving if width == self.widths.channels else None

    def _next_group_width(self, node: fx.Node) -> int | None:
        """Width of the groups of the grouped convolution that takes this layer's output."""
        for user in node.users:
            if user.op == "call_module":
                layer = self.block.get_submodule(str(user.target))
                if isinstance(layer, _ConvNd) and layer.groups > 1:
                    width = layer.in_channels // layer.groups
                    return width if width > 1 else None
                if isinstance(layer, LAYERS):
                    return None
            following = self._next_group_width(user) if len(node.users) == 1 else None
            if following is not None:
                return following
        return None

    # Shortcuts

    def _fit_shortcut(self, node: fx.Node) -> None:
        """Put a projection into a sum's direct side where its width is not the other side's."""
        sides = [arg for arg in node.args if isinstance(arg, fx.Node) and arg in self.dependent]
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
        value = self.values[direct]
        name = SHORTCUT if not self.recipe.shortcuts else f"{SHORTCUT}_{len(self.recipe.shortcuts)}"
        arriving, leaving = ids_of(value), ids_of(wanted)
        self.recipe.shortcuts[name] = (arriving, leaving)
        self.recipe.is_edited = True
        with self.graph.inserting_before(node):
            projected = self.graph.call_module(name, (direct,))
        node.replace_input_with(direct, projected)
        shape = (value.thin.shape[0], len(leaving), *value.thin.shape[2:])
        self.values[projected] = Value(wanted.original, value.thin.new_empty(shape), leaving)
        self.dependent.add(projected)

    # Everything else

    def _compute(self, node: fx.Node) -> Any:
        """What the node gives on the thin values, its written-out widths changed where needed."""
        if node.target not in ALWAYS_RESCALED:
            try:
                thin = self._apply(node, node.args, node.kwargs)
                if alike(thin, self.originals[node]):
                    return thin
            except NotScalable:
                raise
            except Exception:
                failure = f"of {self._thin_shapes(node)}"
            else:
                failure = "(its result has another form)"
        else:
            failure = "(its widths are written into the code)"
        for args, kwargs in rescaled_arguments(node, self.values):
            try:
                thin = self._apply(node, args, kwargs)
            except Exception:
                continue
            if alike(thin, self.originals[node]):
                if (args, kwargs) != (node.args, node.kwargs):
                    node.args, node.kwargs = args, kwargs
                    self.recipe.is_edited = True
                return thin
        raise NotScalable(f"{node.name} does not work on thin maps {failure}")

    def _thin_shapes(self, node: fx.Node) -> str:
        """Shapes of the thin maps that a node takes: what says why it fails on them."""
        values = [self.values[n].thin for n in node.all_input_nodes if n in self.dependent]
        shapes = ["x".join(map(str, v.shape)) for v in values if isinstance(v, Tensor)]
        return " and ".join(shapes) or "another width"

    def _apply(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        beside = [self.values[n] for n in node.all_input_nodes if n in self.dependent]

        def thin(other: fx.Node) -> Any:
            if other in self.dependent:
                return self.values[other].thin
            return self._constant(other, beside)

        args, kwargs = fx.node.map_arg(args, thin), fx.node.map_arg(kwargs, thin)
        return apply(node, self.block, args, kwargs)

    def _constant(self, node: fx.Node, beside: list[Value]) -> Any:
        """A parameter, or what is computed of some; a value for each channel is cut."""
        if node.op == "get_attr":
            tensor = self.originals[node]
            kept = self._kept_entries(tensor, beside)
            if kept is None:
                return tensor
            known = self.recipe.vectors.setdefault(str(node.target), kept)
            if not torch.equal(known, kept):
                raise NotScalable(f"{node.target} is used twice, on different channels")
            return cut_vector(tensor, tensor.numel(), kept)
        args = fx.node.map_arg(node.args, lambda n: self._constant(n, beside))
        kwargs = fx.node.map_arg(node.kwargs, lambda n: self._constant(n, beside))
        return apply(node, self.block, args, kwargs)

    def _kept_entries(self, tensor: Any, beside: list[Value]) -> Tensor | None:
        """Which entries stay of a tensor that has one for each channel of a value beside it."""
        if not isinstance(tensor, Tensor) or tensor.numel() not in tensor.shape:
            return None
        size = tensor.numel()
        for value in beside:
            if isinstance(value.thin, Tensor) and size > 1:
                dims = [d for d, n in enumerate(value.original.shape) if n == size]
                changed = [d for d in dims if value.thin.shape[d] != size]
                if changed:
                    ids = ids_of(value, changed[0])
                    return ids if int(ids.max()) < size else torch.arange(len(ids))
        return None

    def _ids(self, node: fx.Node, thin: Any, inputs: list[Value]) -> Tensor | None:
        """The channels of a value: those of its input, or of what is concatenated."""
        if not isinstance(thin, Tensor):
            return None
        if node.target in (torch.cat, torch.concat):
            return concatenated_ids(node, self.values)
        for value in inputs:
            same = isinstance(value.thin, Tensor) and value.ids is not None
            if same and value.thin.shape[1:2] == thin.shape[1:2]:
                return value.ids
        return None


def layers_inside(graph: fx.Graph, block: nn.Module) -> set[fx.Node]:
    """Calls of modules from which a block's output can't be reached but through a layer.

    What a depth-wise or grouped convolution gives is as wide as what it takes: the layers before it
    count as those at the end.
    """
    outer: set[fx.Node] = set()
    waiting = [node for node in graph.nodes if node.op == "output"]
    while waiting:
        for node in waiting.pop().all_input_nodes:
            if node in outer:
                continue
            outer.add(node)
            layer = block.get_submodule(str(node.target)) if node.op == "call_module" else None
            ends = isinstance(layer, LAYERS) and getattr(layer, "groups", 1) == 1
            if not ends:
                waiting.append(node)
    return {node for node in graph.nodes if node.op == "call_module"} - outer
