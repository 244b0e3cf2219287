"""The order of ghost modules' channels, folded into the weights of their neighbours.

A ghost module that gives its channels in the order of its concat needs no index. The norm and the
depth-wise convolutions after it then have their channels in that order, and the convolutions that
read it their inputs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.channelwise import LAYERS, is_channelwise
from ghostify.graph.segments import Segment
from ghostify.nn.ghost import GhostConv
from ghostify.nn.ghost_kinds import CONV_KINDS

BY_CHANNEL = ("weight", "bias", "running_mean", "running_var")


@dataclass
class _Neighbours:
    """What a ghost module's channels go through, and the convolutions that read them."""

    passed: list[nn.Module] = field(default_factory=list)
    readers: list[_ConvNd] = field(default_factory=list)


def fold_orders(segments: Iterable[Segment], network: nn.Module) -> int:
    """Take away the orders of ghost modules that can do without; in place, the outputs stay.

    Folded is what is read inside its segment by plain convolutions alone, channel by channel on the
    way there. A segment's end keeps its order: it is where a network is compared with its original.

    Args:
        segments: Of the original, of which ``network`` is the C-Ghost conversion.
        network: Changed in place.

    Returns:
        How many were folded.
    """
    segments = list(segments)
    once = _called_once(segments, network)
    return sum(_fold_segment(segment, once) for segment in segments)


def _fold_segment(segment: Segment, once: dict[fx.Node, nn.Module]) -> int:
    count = 0
    for node in segment.nodes:
        ghost = once.get(node)
        if isinstance(ghost, GhostConv) and ghost.order is not None and _is_permuted(ghost):
            found = _neighbours(node, segment, once)
            if found is not None:
                _fold(ghost, ghost.order.argsort(), found)
                count += 1
    return count


def _called_once(segments: Iterable[Segment], network: nn.Module) -> dict[fx.Node, nn.Module]:
    """The modules that the graph calls, without those whose tensors serve somewhere else too."""
    modules = dict(network.named_modules())
    graphs = {node.graph for segment in segments for node in segment.nodes[:1]}
    nodes = (node for graph in graphs for node in graph.nodes if node.op == "call_module")
    found = ((node, modules.get(str(node.target))) for node in nodes)
    calls = {node: module for node, module in found if module is not None}
    times = Counter(map(id, calls.values()))
    owners = Counter(id(p) for m in network.modules() for p in m._parameters.values())

    def is_shared(module: nn.Module) -> bool:
        parameters = list(module.parameters())
        is_called_again = times[id(module)] > 1 and bool(parameters)
        return is_called_again or any(owners[id(p)] > 1 for p in parameters)

    return {node: module for node, module in calls.items() if not is_shared(module)}


def _is_permuted(ghost: GhostConv) -> bool:
    """Whether the outputs are those of the plain order in another order."""
    assert ghost.order is not None
    places = torch.arange(ghost.out_channels, device=ghost.order.device)
    return ghost.groups == 1 and torch.equal(ghost.order.sort().values, places)


def _neighbours(
    node: fx.Node, segment: Segment, once: dict[fx.Node, nn.Module]
) -> _Neighbours | None:
    """None where the order is needed."""
    found = _Neighbours()
    stack, inside = [node], set(segment.nodes)
    while stack:
        current = stack.pop()
        if current is segment.nodes[-1]:
            return None
        for user in current.users:
            layer = once.get(user)
            if user not in inside or len(user.all_input_nodes) != 1:
                return None
            reader = layer.primary if isinstance(layer, GhostConv) else layer
            if _is_plain_conv(reader) and reader.groups == 1:
                found.readers.append(reader)
            elif is_channelwise(user, layer) and (layer is None or _is_open(layer)):
                found.passed += [] if layer is None else [layer]
                stack.append(user)
            else:
                return None
    return found


def _is_plain_conv(layer: nn.Module | None) -> TypeGuard[_ConvNd]:
    return isinstance(layer, _ConvNd) and _is_open(layer)


def _is_open(layer: nn.Module) -> bool:
    """Whether its tensors are its own, and not worked out of others."""
    is_own = all(name in BY_CHANNEL for name in layer._parameters)
    if isinstance(layer, _ConvNd):
        return type(layer) in CONV_KINDS and is_own and "weight" in layer._parameters
    return is_own and all(isinstance(part, LAYERS) for part in layer.children())


@torch.no_grad()
def _fold(ghost: GhostConv, places: Tensor, neighbours: _Neighbours) -> None:
    """``places``: for each channel of the concat, which output it was."""
    ghost.set_order(None)
    for layer in neighbours.passed:
        for tensor in _by_channel(layer):
            tensor.copy_(tensor[places])
    for conv in neighbours.readers:
        # A transposed convolution's weight has its inputs first.
        conv.weight.copy_(conv.weight[places] if conv.transposed else conv.weight[:, places])


def _by_channel(layer: nn.Module) -> Iterator[Tensor]:
    values = (getattr(layer, name, None) for name in BY_CHANNEL)
    return (value for value in values if isinstance(value, Tensor))
