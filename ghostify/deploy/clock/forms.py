"""A layer in each of its forms as a program of its own: as it is, and as ghost modules."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.cost.figures import Count
from ghostify.deploy.apart import AsTuple
from ghostify.deploy.channel_spaces import find_spaces
from ghostify.deploy.program import Program
from ghostify.deploy.runtimes import Runtime, dtype_name
from ghostify.graph.channelwise import is_channelwise
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.g_ghost import GGhostStage
from ghostify.nn.ghost import GhostConv
from ghostify.passes.rules import Layer, is_layer, make_ghost
from ghostify.passes.survey import Survey
from ghostify.plans import Replacement
from ghostify.settings import CGhost


@dataclass(frozen=True)
class TimedLayer:
    """A layer, and what is measured with it.

    Attributes:
        name: Its qualified name.
        layer: The layer.
        after: The norm and the activation that alone read what it gives.
        given: An input like that of its first call, on the meta device.
        calls: How often it is called in a run.
        needs_index: Whether others write the same channels, or something reads them in their order:
            ghosts in another order need an index there.
    """

    name: str
    layer: Layer
    after: tuple[nn.Module, ...]
    given: Tensor
    calls: int
    needs_index: bool = False

    @property
    def signature(self) -> str:
        """What its times follow from: layers of the same signature are measured once."""
        parts = [" ".join(repr(module).split()) for module in (self.layer, *self.after)]
        shape = "x".join(map(str, self.given.shape))
        return f"{' > '.join(parts)} @ {shape} {dtype_name(self.given.dtype)}"

    def program(
        self, item: Replacement | None, settings: CGhost, runtime: Runtime, leaves: Leaves = ""
    ) -> Program:
        """It in the runtime's inference form, or the ghost module that it becomes.

        Args:
            item: What it becomes; None for itself.
            settings: Of the conversion.
            runtime: The runtime.
            leaves: How the ghost module's maps leave it.
        """
        layer: nn.Module = copy_network(self.layer)
        if item is not None:
            layer = make_ghost(self.layer, item.s, item.d, settings.bias_mode, divisor=item.divisor)
        # A reader lets the channels come in the order that the ghosts make, as in the network.
        reader = _reader(self.layer)
        if leaves == "order":
            layer, reader = as_fitted(layer), []
        parts = [layer, *(copy_network(module) for module in self.after)]
        network = nn.Sequential(*parts, *reader).eval()
        fused = runtime.inference_form(network, concat=leaves != "apart")
        alone = nn.Sequential(*list(fused)[: len(parts)], *[AsTuple()] * (leaves == "apart"))
        drawn = torch.rand(self.given.shape).to(self.given.dtype)
        return Program(alone.eval(), (drawn,))


Leaves = Literal["", "order", "apart"]
"""How a ghost module's maps leave it: concatenated, in an order that needs an index, in parts."""


def form_of(item: Replacement, settings: CGhost, layer: Layer, leaves: Leaves = "") -> str:
    """How a ghost module is made, as the name of a form.

    Args:
        item: What the layer becomes.
        settings: Of the conversion.
        layer: The layer.
        leaves: How the ghost module's maps leave it.

    Example:
        >>> form_of(Replacement("a", "Conv2d", 2, 3, 8, 8, (3, 3)), CGhost(), nn.Conv2d(8, 8, 3))
        's=2, d=3'
    """
    d = item.d if isinstance(item.d, int) else "x".join(map(str, item.d))
    parts = [f"s={item.s}", f"d={d}"]
    if item.divisor > 1:
        parts.append(f"divisor={item.divisor}")
    if layer.bias is not None and settings.bias_mode != CGhost.bias_mode:
        parts.append(f"bias={settings.bias_mode}")
    return ", ".join([*parts, leaves] if leaves else parts)


def plain_form(form: str) -> str:
    """The name of a form without how its maps leave it.

    Example:
        >>> plain_form("s=2, d=3, order")
        's=2, d=3'
    """
    return form.removesuffix(", order").removesuffix(", apart")


def as_fitted(converted: nn.Module) -> nn.Module:
    """A conversion whose ghosts have an order, as a warm start gives them: indices take time too.

    Args:
        converted: A conversion as it begins, or a part of it; it is changed.
    """
    generator = torch.Generator().manual_seed(0)
    for module in converted.modules():
        if isinstance(module, GGhostStage) and module.ghosts:
            module.set_order(torch.randperm(module.channels, generator=generator))
        if isinstance(module, GhostConv) and module.cheap is not None:
            own = module.intrinsic_maps // module.groups * module.s
            each = module.out_channels // module.groups
            parts = [
                torch.randperm(each, generator=generator) + g * own for g in range(module.groups)
            ]
            module.set_order(torch.cat(parts))
    return converted


def _reader(layer: nn.Module) -> list[nn.Module]:
    if not isinstance(layer, nn.Conv2d):
        return []
    return [nn.Conv2d(layer.out_channels, 1, 1).to(layer.weight.dtype)]


def network_signature(name: str, count: Count) -> str:
    """What the time of a whole network follows from, as far as is known."""
    rows = [(row.name, row.kind, row.calls, str(row.cost)) for row in count.layers]
    digest = hashlib.sha256(repr((rows, count.inputs)).encode()).hexdigest()[:16]
    return f"{name} {digest}"


@torch.no_grad()
def find_timed_layers(
    network: nn.Module, survey: Survey, args: tuple[Any, ...], names: Iterable[str]
) -> dict[str, TimedLayer]:
    """Layers with what belongs to them, as they are called in one run.

    Args:
        network: In eval mode; it is run once.
        survey: Of it.
        args: What it takes.
        names: The layers. Those that take something else than one tensor, or are not called, are
            left out.
    """
    modules = dict(network.named_modules())
    wanted = {modules[n]: n for n in names if n in modules and is_layer(modules[n])}
    given: dict[nn.Module, list[Tensor]] = {}

    def note(layer: nn.Module, args: tuple[Any, ...]) -> None:
        if len(args) == 1 and isinstance(args[0], Tensor):
            given.setdefault(layer, []).append(args[0].to("meta"))

    handles = [layer.register_forward_pre_hook(note) for layer in wanted]
    try:
        network(*args)
    finally:
        for handle in handles:
            handle.remove()
    after, indexed = _followers(survey, modules), _indexed(survey, network)
    return {
        name: TimedLayer(
            name, layer, after.get(name, ()), given[layer][0], len(given[layer]), name in indexed
        )
        for layer, name in wanted.items()
        if layer in given and is_layer(layer)
    }


def _indexed(survey: Survey, network: nn.Module) -> set[str]:
    """Layers whose channels others write too, or something reads in their order."""
    found: set[str] = set()
    for region in survey.tracing.regions:
        part = network.get_submodule(region.name)
        names = {module: region.qualify(name) for name, module in part.named_modules()}
        for space in find_spaces(region.graph, part).spaces.values():
            if space.is_pinned or len(space.writers) > 1:
                found.update(names[writer] for writer in space.writers)
    return found


def _followers(
    survey: Survey, modules: Mapping[str, nn.Module]
) -> dict[str, tuple[nn.Module, ...]]:
    """For each layer that is called once in a graph: the norm and the activation after it."""
    found: dict[str, tuple[nn.Module, ...]] = {}
    for region in survey.tracing.regions:
        own = {
            str(node.target): modules[region.qualify(str(node.target))]
            for node in region.graph.nodes
            if node.op == "call_module" and region.qualify(str(node.target)) in modules
        }
        for node in region.graph.nodes:
            layer = own.get(str(node.target)) if node.op == "call_module" else None
            if layer is not None and is_layer(layer):
                found[region.qualify(str(node.target))] = tuple(_after(node, own))
    return found


def _after(node: fx.Node, modules: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    for wanted in (_is_norm, _is_activation):
        users = list(node.users)
        reader = users[0] if len(users) == 1 else None
        module = modules.get(str(reader.target)) if reader is not None else None
        if reader is not None and wanted(reader, module):
            yield module if module is not None else Call(reader)
            node = reader


def _is_norm(node: fx.Node, module: nn.Module | None) -> bool:
    return node.op == "call_module" and isinstance(module, _BatchNorm)


def _is_activation(node: fx.Node, module: nn.Module | None) -> bool:
    if not is_channelwise(node, module) or len(node.all_input_nodes) != 1:
        return False
    if node.op != "call_module":
        return True
    # Pooling would make the maps smaller, and drop-out is nothing in inference.
    return module is not None and type(module).__module__ == nn.ReLU.__module__


class Call(nn.Module):
    """A function or method that a graph calls on one tensor, as a module.

    Args:
        node: The node that calls it.
    """

    def __init__(self, node: fx.Node) -> None:
        super().__init__()
        self.is_method = node.op == "call_method"
        self.function, self.args, self.kwargs = node.target, node.args[1:], dict(node.kwargs)
        self.kwargs.pop("input", None)

    def forward(self, x: Tensor) -> Any:
        """What the call gives for ``(N, C, ...)``."""
        function = getattr(x, str(self.function)) if self.is_method else self.function
        own = () if self.is_method else (x,)
        assert callable(function)
        return function(*own, *self.args, **self.kwargs)

    def extra_repr(self) -> str:
        """The function's name and arguments."""
        name = self.function if self.is_method else getattr(self.function, "__name__", "?")
        return ", ".join(map(str, (name, *self.args, *self.kwargs.items())))
