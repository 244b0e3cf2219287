"""The inference form of a whole network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import inf
from typing import TypeVar

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.deploy.channel_spaces import Channels, ChannelSpaces, Space, find_spaces
from ghostify.deploy.ghosts import (
    FusedGhost,
    can_be_fused,
    fused_ghost,
    fused_ghost_module,
    outputs_in_concat,
)
from ghostify.deploy.keeping_apart import IN_TORCH, keep_apart
from ghostify.deploy.norms import fold_norms
from ghostify.errors import ModelError
from ghostify.graph.meta_copy import copy_network, meta_copy
from ghostify.graph.trace import trace
from ghostify.nn.ghost import GhostConv
from ghostify.nn.swap import replace_modules
from ghostify.numerics.surroundings import own_surroundings
from ghostify.settings.base import check_not_negative

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@own_surroundings()
def fuse(
    network: ModuleT, *, fold_ghost_norms: bool = True, addition: float | None = IN_TORCH
) -> ModuleT:
    """The inference form of a network: a copy in eval mode that gives the same outputs, faster.

    Batch norms become part of the convolutions before them; ghost modules compute their ghosts by
    plain depth-wise convolutions, with their channels in the order that needs no index, which the
    layers around them take on. It works on networks that were not converted too, and leaves what it
    can't follow. The copy takes batches ``(N, C, ...)`` and can't be trained further.

    Args:
        network: Any network; it is not changed.
        fold_ghost_norms: Whether norms after ghost modules become part of them too, which is faster
            in PyTorch. ONNX Runtime is faster with the norm after the concat.
        addition: What adding to a map costs, where copying one costs 2. Where it is cheaper, ghost
            modules leave out their concat, and convolutions add up what they make of each part;
            between modules the maps are a `MapsApart` there, which gives the concat to whatever
            asks. None: always concatenate, as is done in any case on a GPU.

    Returns:
        The copy. Its outputs differ from the network's by rounding alone.

    Raises:
        ModelError: The network can't be copied.
        SettingsError: ``addition`` is no number of 0 or more.

    Example:
        >>> import ghostify
        >>> network = ghostify.convert("resnet20-cifar", s=2)
        >>> fused = ghostify.fuse(network)
        >>> sum(isinstance(m, nn.BatchNorm2d) for m in network.modules())
        19
    """
    return fuse_(copy_network(network), fold_ghost_norms=fold_ghost_norms, addition=addition)


@own_surroundings()
def fuse_(
    network: ModuleT, *, fold_ghost_norms: bool = True, addition: float | None = IN_TORCH
) -> ModuleT:
    """`fuse` in place: the network itself is put into eval mode, changed, and returned."""
    if not isinstance(network, nn.Module):
        raise ModelError(f"fuse takes a network (torch.nn.Module), and {network!r} is none.")
    if addition is not None and addition != inf:
        check_not_negative("addition", addition, inf)
    network.eval()
    _open_modules(network)
    for graph, module in _graphs(network):
        fold_norms(graph, module, (_ConvNd,))
        _reorder(graph, module)
        if addition is not None and _is_on_cpu(module):
            keep_apart(graph, module, addition)
        if fold_ghost_norms:
            fold_norms(graph, module, (FusedGhost,))
    _fuse_rest(network)
    return network


def _open_modules(network: nn.Module) -> None:
    """Put what graphs look into in place of ghost modules whose parts are no plain convolutions."""
    ghosts = [m for m in network.modules() if isinstance(m, GhostConv)]
    made = {ghost: fused_ghost_module(ghost) for ghost in ghosts}
    replace_modules(network, {ghost: new for ghost, new in made.items() if new is not None})


def _is_on_cpu(network: nn.Module) -> bool:
    return all(parameter.device.type == "cpu" for parameter in network.parameters())


def _graphs(network: nn.Module) -> Iterator[tuple[fx.Graph, nn.Module]]:
    """The graphs of a network's largest parts that trace, and those parts."""
    # On a meta copy, where hooks of the user's keep what they note to themselves.
    for region in trace(meta_copy(network).eval()).regions:
        yield region.graph, network.get_submodule(region.name)


def _reorder(graph: fx.Graph, module: nn.Module) -> None:
    """Fuse the ghost modules of a graph, with their channels in the order that most need."""
    spaces = find_spaces(graph, module)
    orders = {number: _best_order(space) for number, space in spaces.spaces.items()}
    Reordering(spaces, orders).apply(module)


def _fuse_rest(network: nn.Module) -> None:
    """Fuse the ghost modules that no graph reaches, each in its own order."""
    ghosts = [m for m in network.modules() if isinstance(m, GhostConv)]
    found: dict[nn.Module, nn.Module] = {}
    for ghost in ghosts:
        if can_be_fused(ghost):
            found[ghost] = fused_ghost(ghost, torch.arange(ghost.out_channels))
    replace_modules(network, found)


def _best_order(space: Space) -> Tensor:
    """The order of a space's channels, by their original numbers, that most of its ghosts make."""
    plain = torch.arange(space.size)
    if space.is_pinned:
        return plain
    votes: Counter[tuple[int, ...]] = Counter()
    for writer in space.writers:
        if isinstance(writer, GhostConv) and can_be_fused(writer):
            natural = outputs_in_concat(writer)
            votes[tuple(natural[natural >= 0].tolist())] += 1
    return torch.tensor(votes.most_common(1)[0][0]) if votes else plain


class Reordering:
    """One change of orders: every writer, reader and layer between takes on the new ones."""

    def __init__(self, spaces: ChannelSpaces, orders: dict[int, Tensor]) -> None:
        self.spaces, self.orders = spaces, orders

    @torch.no_grad()
    def apply(self, module: nn.Module) -> None:
        """Change the layers of a module in place, and put fused ghosts into it."""
        for reader, channels in self.spaces.reads:
            self._reorder_inputs(reader, channels)
        for layer, channels in self.spaces.passes:
            order = self._order_of(channels)
            for tensor in _tensors_by_channel(layer):
                tensor.copy_(tensor[order])
        fused: dict[nn.Module, nn.Module] = {}
        for number, space in self.spaces.spaces.items():
            order = self.orders[number]
            for writer in space.writers:
                if not isinstance(writer, GhostConv):
                    for tensor in _outputs_by_channel(writer):
                        tensor.copy_(tensor[order])
                elif can_be_fused(writer):
                    fused[writer] = fused_ghost(writer, order)
                else:
                    _reorder_ghost(writer, order)
        replace_modules(module, fused)

    def _order_of(self, channels: Channels) -> Tensor:
        parts, start = [], 0
        for atom in channels.atoms:
            order = self.orders[self.spaces.root(atom)]
            parts.append(order + start)
            start += len(order)
        return torch.cat(parts)

    def _reorder_inputs(self, reader: nn.Module, channels: Channels) -> None:
        order, weight = self._order_of(channels), reader.weight
        assert isinstance(weight, Tensor)
        by_channel = weight if getattr(reader, "transposed", False) else weight.transpose(0, 1)
        pixels = len(by_channel) // len(order)
        by_channel.copy_(by_channel.unflatten(0, (len(order), pixels))[order].flatten(0, 1))


def _reorder_ghost(ghost: GhostConv, order: Tensor) -> None:
    plain = torch.arange(ghost.out_channels)
    if not torch.equal(order, plain):
        place = plain if ghost.order is None else ghost.order.cpu()
        ghost.set_order(place[order])


def _tensors_by_channel(layer: nn.Module) -> list[Tensor]:
    own = (*layer.parameters(recurse=False), *layer.buffers(recurse=False))
    return [tensor for tensor in own if tensor.dim() > 0]


def _outputs_by_channel(layer: nn.Module) -> list[Tensor]:
    """The tensors of a layer that makes channels; weights of transposed layers are turned."""
    if not getattr(layer, "transposed", False):
        return _tensors_by_channel(layer)
    assert isinstance(layer, _ConvNd)
    return [layer.weight.transpose(0, 1), *([] if layer.bias is None else [layer.bias])]
