"""torch.fx graphs of any network: of the whole, or of the largest parts that trace."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.failure import describe_error, exit_refused
from ghostify.graph.inputs import forward_parameters
from ghostify.nn.concat import Concat
from ghostify.nn.ghost import GhostLayer

LAYERS = (_ConvNd, nn.Linear, GhostLayer)
"""Layers with weights that mix channels."""

LEAVES = (
    *LAYERS,
    Concat,
    _NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RNNBase,
    nn.MultiheadAttention,
)


class LayerTracer(fx.Tracer):
    """A tracer whose leaves are told by what they are, not by the file that defines them.

    A subclass of a convolution or a norm from outside torch.nn stays one node: traced through, a
    norm's ``self.training`` would be frozen, and a convolution's module would vanish.
    """

    def __init__(self) -> None:
        super().__init__(param_shapes_constant=True)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes one node."""
        return isinstance(m, LEAVES) or super().is_leaf_module(m, module_qualified_name)


class BufferTracer(LayerTracer):
    """A tracer for graphs that will be run, in networks with other values in their buffers.

    Buffers stay names in the graph: what is computed of one would be a constant else.
    """

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """A buffer's node; PyTorch's own switch for it bears no ``param_shapes_constant``."""
        if isinstance(attr_val, Tensor) and not isinstance(attr_val, nn.Parameter):
            for name, buffer in self.root.named_buffers():
                if buffer is attr_val:
                    if name not in parameter_proxy_cache:
                        parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
                    return parameter_proxy_cache[name]
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class BlockTracer(BufferTracer):
    """The same; modules without tensors and parts stay whole too.

    Drop-path, stochastic depth and the like look at ``self.training``, which a trace would freeze.
    """

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether ``m`` becomes one node."""
        holds_something = any(m._parameters) or any(m._buffers) or any(m._modules)
        return not holds_something or super().is_leaf_module(m, module_qualified_name)


def frozen_tensors(nodes: Iterable[fx.Node]) -> list[str]:
    """Names of the tensors that a trace made constants; of a meta copy's they have no data."""
    found = [str(node.target) for node in nodes if node.op == "get_attr"]
    return [name for name in found if name.startswith("_tensor_constant")]


@dataclass(frozen=True)
class Region:
    """A part of a network that traces as a whole.

    Attributes:
        name: Qualified name of the module; empty for the whole network.
        graph: Its graph; the targets of its nodes are relative to the module.
        values: The value of each node on the meta device, where the graph is a recording (see
            `ghostify.graph.recording`); None for one that was traced.
    """

    name: str
    graph: fx.Graph
    values: dict[fx.Node, Any] | None = None

    def qualify(self, target: str) -> str:
        """A node's target as a name in the whole network."""
        return f"{self.name}.{target}" if self.name else target


@dataclass(frozen=True)
class TraceStop:
    """A module that does not trace, and where: ``file:line: error``."""

    module: str
    where: str


def lies_in(name: str, outer: str) -> bool:
    """Whether a module's qualified name is that of another, or of one inside."""
    return not outer or name == outer or name.startswith(f"{outer}.")


@dataclass(frozen=True)
class Tracing:
    """The parts of a network that trace, and those that do not.

    Attributes:
        regions: The largest modules that trace.
        stops: The modules that don't.
    """

    regions: tuple[Region, ...]
    stops: tuple[TraceStop, ...]

    @property
    def whole(self) -> Region | None:
        """The region that is the whole network, where there is one."""
        return next((r for r in self.regions if not r.name), None)


def trace(model: nn.Module, given: frozenset[str] = frozenset()) -> Tracing:
    """Trace a network, or the largest of its submodules that trace and hold layers.

    Args:
        model: The network, in the mode (train or eval) that matters; it is not changed.
        given: Names of the optional arguments of its ``forward`` that will be given; the others are
            fixed to their defaults.
    """
    regions: list[Region] = []
    stops: list[TraceStop] = []
    _trace_into(model, "", given, regions, stops)
    return Tracing(tuple(regions), tuple(stops))


def trace_graph(module: nn.Module, given: frozenset[str] = frozenset()) -> fx.Graph:
    """The graph of a module; whatever goes wrong is raised as it comes."""
    with exit_refused():
        return LayerTracer().trace(module, concrete_args=defaults_of(module, given))


def _trace_into(
    module: nn.Module,
    name: str,
    given: frozenset[str],
    regions: list[Region],
    stops: list[TraceStop],
) -> None:
    if _has_forward(module):
        try:
            graph = trace_graph(module, given)
        except Exception as error:
            stops.append(TraceStop(name, describe_error(error)))
        else:
            regions.append(Region(name, graph))
            return
    for child_name, child in module.named_children():
        if not isinstance(child, LEAVES) and _holds_layers(child):
            path = f"{name}.{child_name}" if name else child_name
            _trace_into(child, path, frozenset(), regions, stops)


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward


def _holds_layers(module: nn.Module) -> bool:
    return any(isinstance(m, LAYERS) for m in module.modules())


def defaults_of(module: nn.Module, given: frozenset[str]) -> dict[str, Any]:
    """The optional arguments that stay at their defaults (a proxy would never be None)."""
    return {
        p.name: p.default
        for p in forward_parameters(module).values()
        if p.default is not inspect.Parameter.empty and p.name not in given
    }


def weights_read_directly(tracing: Tracing, model: nn.Module) -> Iterator[str]:
    """Names of the layers whose weight some forward reads, instead of (or beside) calling them."""
    for region in tracing.regions:
        for node in region.graph.nodes:
            if node.op == "get_attr" and "." in str(node.target):
                owner = region.qualify(str(node.target).rpartition(".")[0])
                if isinstance(_module_at(model, owner), LAYERS):
                    yield owner


def _module_at(model: nn.Module, name: str) -> nn.Module | None:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None
