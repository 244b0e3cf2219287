"""Channel propagation: which channels every value of a thin block has, and every layer keeps."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.blocks import calls_of, module_of
from ghostify.graph.execution import Env, propagate
from ghostify.graph.failure import describe_error
from ghostify.graph.layout import FIRST, Dims, channel_dims
from ghostify.graph.recording import NotRecorded, record_block
from ghostify.graph.trace import LAYERS, BlockTracer, frozen_tensors
from ghostify.nn.carving import Cut
from ghostify.thinning.editing import GraphEditor
from ghostify.thinning.slicers import LayerContext, NotScalable, Slicer, Widths, slicer_for
from ghostify.thinning.thin import ThinRecipe
from ghostify.thinning.values import Value, ids_of_result


@dataclass(frozen=True)
class Wanted:
    """Which channels a thin block should keep, where its layers are free to choose.

    Attributes:
        leaving: Of what it gives, ``(r,)``; None for the first.
        inside: Of what layers inside it give, by their names; the first of all others.
    """

    leaving: Tensor | None = None
    inside: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Maps:
    """What a block takes.

    Attributes:
        original: In the original network, ``(N, c, H, W)`` or ``(N, H, W, c)``, on the meta device.
        arriving: Which of those channels arrive in the thin network, ``(channels,)``.
        dim: The dimension that the channels lie along; in what the block gives too.
    """

    original: Tensor
    arriving: Tensor
    dim: int = FIRST


def propagate_channels(
    block: nn.Module,
    given: Maps,
    widths: Widths,
    thin_inside: bool = True,
    wide: Sequence[str] = (),
    wanted: Wanted | None = None,
) -> ThinRecipe:
    """Find how a block gets thin, node by node from what arrives to what leaves.

    Args:
        block: The block on the meta device, in eval mode; it is not changed.
        given: What it takes in both networks.
        widths: From original widths to thin ones.
        thin_inside: Whether the widths inside the block shrink too; else only those of what it
            takes and gives.
        wide: Modules in the block whose own inner widths stay, where others shrink (attention,
            say, whose heads are written into the code).
        wanted: Which channels to keep; the first, if not given.

    Returns:
        What each layer keeps, and the graph with the changes that it needs.

    Raises:
        NotScalable: Something in the block can't be made thinner; the message is the reason.
    """

    def attempt(parts: Sequence[str | None], is_careful: bool = True) -> ThinRecipe:
        seen = _look_at(block, given)
        carriers = seen.dims if is_careful else None
        full = (layers_inside(seen.graph, block, carriers, part) for part in parts)
        propagation = _Propagation(
            block, given, widths, seen, set[fx.Node]().union(*full), wanted or Wanted()
        )
        return propagation.run()

    if thin_inside:
        return attempt(wide)
    try:
        return attempt([None], is_careful=False)
    except NotScalable as reason:
        try:
            return attempt([None])
        except NotScalable:
            raise reason from None


@dataclass(frozen=True)
class _Seen:
    """What is known of a block as it is.

    Attributes:
        graph: Its graph.
        values: The value of each node.
        dims: The dimensions that their channels lie along, where known.
        is_recorded: Whether the graph is a recording.
    """

    graph: fx.Graph
    values: Env
    dims: Dims
    is_recorded: bool


def _look_at(block: nn.Module, given: Maps) -> _Seen:
    try:
        graph = BlockTracer().trace(block)
    except Exception as error:
        try:
            made = record_block(block, given.original)
        except NotRecorded:
            raise NotScalable(f"a block of it does not trace ({describe_error(error)})") from error
        graph, values, is_recorded = made.graph, made.values, True
    else:
        values, is_recorded = propagate(graph, block, (given.original,)), False
    entry = next(node for node in graph.nodes if node.op == "placeholder")
    dims = channel_dims(graph, block, values, {entry: given.dim})
    return _Seen(graph, values, dims, is_recorded)


class _Propagation:
    """One propagation: the values so far, and the recipe that comes of them."""

    def __init__(
        self,
        block: nn.Module,
        given: Maps,
        widths: Widths,
        seen: _Seen,
        full: Collection[fx.Node],
        wanted: Wanted,
    ) -> None:
        self.block, self.given, self.widths, self.wanted = block, given, widths, wanted
        self.originals, self.full = seen.values, full
        self.inside = layers_inside(seen.graph, block)
        self.recipe = ThinRecipe(seen.graph, is_recorded=seen.is_recorded)
        self.editor = GraphEditor(block, self.recipe, self.originals, seen.dims)
        self.values = self.editor.values
        self._thin_layers: dict[str, nn.Module] = {}
        self._stays: set[str] = set()

    def run(self) -> ThinRecipe:
        """Go through all nodes; whether enough channels leave is checked by the caller."""
        x, arriving, dim = self.given.original, self.given.arriving, self.given.dim
        thin = x.new_empty(_with_size(x.shape, dim, len(arriving)))
        entry = Value(x, thin, arriving, is_direct=True, dim=dim)
        for node in list(self.recipe.graph.nodes):
            if node.op != "output" and node not in self.originals:
                raise NotScalable(f"a block of it can't be run on its own (at {node.name})")
            if node.op == "placeholder":
                original = self.originals[node]
                self.values[node] = Value(original, original) if self.values else entry
            elif node.op == "output":
                self._finish(node)
            elif self.editor.inputs(node):
                self.values[node] = self._located(node)
        return self.recipe

    def _located(self, node: fx.Node) -> Value:
        try:
            return self._value(node)
        except NotScalable as reason:
            reason.within = tuple(map(module_of, calls_of(node)))
            raise

    def _finish(self, node: fx.Node) -> None:
        result = node.args[0]
        if not isinstance(result, fx.Node):
            raise NotScalable("a block of it gives more than one tensor")
        value, dim = self.values[result], self.given.dim
        if not isinstance(value.thin, Tensor) or not set(value.changed_dims) <= {dim}:
            raise NotScalable("a thin block of it gives another shape")
        nodes = self.recipe.graph.nodes
        if self.recipe.is_edited and any("training" in n.kwargs for n in nodes):
            raise NotScalable("its code must change, and a trace would freeze its training mode")
        if self.recipe.is_edited and frozen_tensors(nodes):
            raise NotScalable("its code must change, and a trace would freeze a tensor it makes")
        self.recipe.out_ids = value.channels(dim)

    def _value(self, node: fx.Node) -> Value:
        is_mixing = False
        if node.op == "call_module":
            layer = self.block.get_submodule(str(node.target))
            stays = node in self.full and all(v.is_whole for v in self.editor.inputs(node))
            slicer = None if stays else slicer_for(layer)
            if slicer is not None:
                return self._sliced(node, layer, slicer)
            if stays:
                self._keep_whole(str(node.target))
            is_mixing = isinstance(layer, LAYERS)
        thin = self.editor.compute(node)
        original, dim = self.originals[node], self.editor.dims.get(node)
        ids = None if is_mixing else ids_of_result(node, original, thin, self.values, dim)
        is_direct = not is_mixing and all(value.is_direct for value in self.editor.inputs(node))
        return Value(original, thin, ids, is_direct, dim)

    def _keep_whole(self, name: str) -> None:
        """Note that a layer inside the block stays as it is."""
        if name in self.recipe.cuts:
            raise NotScalable(f"{name} is used twice, on different channels")
        self._stays.add(name)

    def _sliced(self, node: fx.Node, layer: nn.Module, slicer: Slicer) -> Value:
        """What a layer gives when what does not arrive and is not kept is cut out of it."""
        source, name = node.args[0] if node.args else None, str(node.target)
        if not isinstance(source, fx.Node) or len(node.all_input_nodes) != 1:
            raise NotScalable(f"{name} takes more than one tensor")
        value = self.values[source]
        changed = value.changed_dims
        dim = changed[0] if len(changed) == 1 else slicer.dim(layer, value.original)
        following, wanted = next_group_width(node, self.block), self._wanted_of(node, layer)
        context = LayerContext(value.channels(dim), following, wanted)
        widths = self.widths.unchanged if node in self.full else self.widths
        cut = slicer.decide(layer, context, widths)
        thin_layer = self._thin_layer(name, layer, slicer, cut)
        try:
            thin = thin_layer(value.thin)
        except Exception as error:
            raise NotScalable(f"{name} does not work when thin ({describe_error(error)})") from None
        is_mixing = isinstance(layer, LAYERS)
        ids = cut.outputs if is_mixing else value.ids
        is_direct = value.is_direct and not is_mixing
        return Value(self.originals[node], thin, ids, is_direct, self.editor.dims.get(node))

    def _thin_layer(self, name: str, layer: nn.Module, slicer: Slicer, cut: Cut) -> nn.Module:
        if name in self._stays or not cut.same_as(self.recipe.cuts.setdefault(name, cut)):
            raise NotScalable(f"{name} is used twice, on different channels")
        if name not in self._thin_layers:
            self._thin_layers[name] = slicer.make(layer, cut)
        return self._thin_layers[name]

    def _wanted_of(self, node: fx.Node, layer: nn.Module) -> Tensor | None:
        """Which outputs of a layer to keep: what the block gives shares its last layers' choice."""
        if node in self.inside:
            return self.wanted.inside.get(str(node.target))
        width = getattr(layer, "out_channels", getattr(layer, "out_features", None))
        return self.wanted.leaving if width == self.widths.channels else None


def _with_size(shape: Sequence[int], dim: int, size: int) -> tuple[int, ...]:
    """A shape with another size in one dimension."""
    return (*shape[:dim], size, *shape[dim + 1 :])


def next_group_width(node: fx.Node, block: nn.Module) -> int | None:
    """Width of the groups of the grouped convolution that takes a layer's output, if one does."""
    for user in node.users:
        layer = block.get_submodule(str(user.target)) if user.op == "call_module" else None
        if isinstance(layer, _ConvNd) and 1 < layer.groups < layer.in_channels:
            return layer.in_channels // layer.groups
        if isinstance(layer, LAYERS):
            return None
        following = next_group_width(user, block) if len(node.users) == 1 else None
        if following is not None:
            return following
    return None


def layers_inside(
    graph: fx.Graph,
    block: nn.Module,
    carriers: Collection[fx.Node] | None = None,
    part: str | None = None,
) -> set[fx.Node]:
    """Calls of modules from which a block's output can't be reached but through a layer.

    What a depth-wise or grouped convolution gives is as wide as what it takes: the layers before it
    count as those at the end.

    Args:
        graph: The block's graph.
        block: The block.
        carriers: The nodes that keep channels apart; where the way to the output leads through
            another node (attention to the places of a map, say), a layer counts as inside too.
        part: A module in the block, for the calls inside it that its own output can't be reached
            from.
    """
    nodes = [n for n in graph.nodes if part is None or part in map(module_of, calls_of(n))]
    within, outer = set(nodes), set[fx.Node]()
    if part is None:
        waiting = [n for node in nodes if node.op == "output" for n in node.all_input_nodes]
    else:
        waiting = [node for node in nodes if not within.issuperset(node.users)]
    while waiting:
        node = waiting.pop()
        if node in outer or node not in within or (carriers is not None and node not in carriers):
            continue
        outer.add(node)
        layer = block.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not (isinstance(layer, LAYERS) and getattr(layer, "groups", 1) == 1):
            waiting.extend(node.all_input_nodes)
    return {node for node in nodes if node.op == "call_module"} - outer
