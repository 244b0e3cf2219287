"""A network's stem and head, found from its graph."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import fx, nn

from ghostify.graph.trace import LAYERS, Region, Tracing
from ghostify.settings.selectors import Ends


def find_ends(tracing: Tracing, model: nn.Module, called: list[str]) -> Ends:
    """The ends of a network, from its graph; where it doesn't trace, from the calling order.

    Args:
        tracing: What of the network traces.
        model: The network.
        called: Names of its layers in calling order.
    """
    whole = tracing.whole
    if whole is not None:
        return ends_of_graph(whole, model)
    return Ends(frozenset(called[:1]), frozenset(called[-1:]))


def ends_of_graph(region: Region, model: nn.Module) -> Ends:
    """The ends of a traced region of ``model``."""
    nodes = region.graph.nodes
    inputs = [node for node in nodes if node.op == "placeholder"]
    outputs = [node for node in nodes if node.op == "output"]
    modules = dict(model.named_modules(remove_duplicate=False))

    def layers_in(node: fx.Node) -> list[str]:
        if node.op != "call_module":
            return []
        name = region.qualify(str(node.target))
        inside = modules[name].named_modules(prefix=name)
        return [inner for inner, module in inside if isinstance(module, LAYERS)]

    return Ends(
        stem=_first_layers(inputs, lambda node: node.users, layers_in),
        head=_first_layers(outputs, lambda node: node.all_input_nodes, layers_in),
    )


def _first_layers(
    start: list[fx.Node],
    following: Callable[[fx.Node], Iterable[fx.Node]],
    layers_in: Callable[[fx.Node], list[str]],
) -> frozenset[str]:
    """The layers met first on every way from ``start``."""
    found: set[str] = set()
    seen = set(start)
    waiting = list(start)
    while waiting:
        for node in following(waiting.pop()):
            if node in seen:
                continue
            seen.add(node)
            if _asks_shape(node):
                continue
            layers = layers_in(node)
            found.update(layers)
            if not layers:
                waiting.append(node)
    return frozenset(found)


def _asks_shape(node: fx.Node) -> bool:
    """Whether a node reads a tensor's shape or type, and none of its values."""
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel", "stride")
    is_getattr = node.op == "call_function" and node.target is getattr
    return is_getattr and node.args[1] in ("shape", "ndim", "device", "dtype")
