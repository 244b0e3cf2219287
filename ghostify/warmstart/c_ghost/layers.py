"""Pairs of a layer to fit and the layer of the original that it stands for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.segments import Segment
from ghostify.graph.trace import trace
from ghostify.nn.filters import filters_of
from ghostify.nn.ghost import PairedGhost, sizes_of
from ghostify.nn.ghost_kinds import CONV_KINDS, GHOST_KINDS
from ghostify.nn.ghost_linear import GhostLinear
from ghostify.nn.start import carve, out_attribute
from ghostify.warmstart.c_ghost.pairing import Pairing
from ghostify.warmstart.fit.neighbours import norm_after
from ghostify.warmstart.fit.sampling import WIDEST

_FITTED = frozenset((*CONV_KINDS, *GHOST_KINDS.values()))
"""Classes of what is fitted to convolutions: not GhostModule, which has norms inside it."""


@dataclass(frozen=True)
class LayerPair:
    """A layer to fit: one that was left as it is, or a ghost module in the place of one.

    Attributes:
        name: Qualified name.
        teacher: The layer of the original network.
        student: The layer of the converted network.
        norm: The norm of the converted network that alone reads its output.
        node: The node of the graph that calls it, where it is called once.
        norm_node: The node of the norm.
    """

    name: str
    teacher: _ConvNd | nn.Linear
    student: nn.Module
    norm: _BatchNorm | None = None
    node: fx.Node | None = None
    norm_node: fx.Node | None = None

    @property
    def groups(self) -> int:
        """Groups of the layer; each is fitted for itself."""
        return self.teacher.groups if isinstance(self.teacher, _ConvNd) else 1

    @property
    def outputs(self) -> int:
        """Maps that it makes, n."""
        return int(getattr(self.teacher, out_attribute(self.teacher)))

    @property
    def linear(self) -> bool:
        """Whether the layer's weight is its filter, as it is not in subclasses of PyTorch's."""
        return type(self.teacher) in (*CONV_KINDS, nn.Linear)

    @property
    def has_offsets(self) -> bool:
        """Whether all outputs can have an offset of their own: a bias, or the norm's mean."""
        return self.norm is not None or self.owns_offsets

    @property
    def owns_offsets(self) -> bool:
        """Whether the layer has a bias for each output itself."""
        return self.teacher.bias is not None

    @property
    def is_refitted(self) -> bool:
        """Whether its filters are fitted: they are its weight, not too wide, and may be offset."""
        has_room = self.has_offsets or self.teacher.bias is None
        return self.linear and filters_of(self.teacher)[0].numel() <= WIDEST and has_room

    @property
    def is_fitted(self) -> bool:
        """Whether anything of it is fitted."""
        return self.is_refitted

    @property
    def is_linear(self) -> bool:
        """Whether it is no convolution."""
        return isinstance(self.teacher, nn.Linear)

    def maps(self, values: Tensor) -> Tensor:
        """Inputs or outputs as maps ``(N, channels, ...)``.

        Of a linear layer each vector is a place, in one dimension: ``(N, *, F)`` are ``(N, F, P)``.
        """
        if not self.is_linear:
            return values
        return values.reshape(len(values), -1, values.shape[-1]).transpose(1, 2)

    def made_by(self, module: nn.Module, x: Tensor, sizes: Sequence[int]) -> Tensor:
        """The maps that a module in the layer's place makes of maps.

        Args:
            module: The module.
            x: ``(N, c, ...)``.
            sizes: Of its output: where the layer is transposed there can be several.
        """
        if self.is_linear:
            made: Tensor = module(x.transpose(1, 2)).transpose(1, 2)
        elif self.teacher.transposed:
            made = module(x, list(sizes))
        else:
            made = module(x)
        return made

    def move_means(self, maps: Tensor, offsets: Tensor) -> None:
        """Add an offset to some maps by way of the mean that the norm takes away."""
        if self.norm is not None and self.norm.running_mean is not None:
            self.norm.running_mean[maps] -= offsets.to(self.norm.running_mean)


class PlainPair(LayerPair):
    """A layer that was left as it is: fitted, it makes up for what came before it."""

    @torch.no_grad()
    def take(self, weight: Tensor, offsets: Tensor) -> None:
        """Put in fitted filters, shaped as they are, and the offset of each."""
        student = self.student
        assert isinstance(student, _ConvNd | nn.Linear)
        student.weight.copy_(weight)
        if student.bias is not None:
            student.bias.copy_(offsets)
        else:
            self.move_means(torch.arange(len(offsets)), offsets)


class GhostPair(LayerPair):
    """A ghost module in the place of a layer; each group is paired for itself."""

    @property
    def ghost(self) -> PairedGhost:
        """The ghost module."""
        assert isinstance(self.student, PairedGhost)
        return self.student

    @property
    def is_fitted(self) -> bool:
        """Its cheap operations are, in any case."""
        return True

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the cheap kernel along each dimension of the maps."""
        dimensions = len(self.teacher.kernel_size) if isinstance(self.teacher, _ConvNd) else 1
        return sizes_of(self.ghost.d, dimensions)

    @property
    def copies(self) -> int:
        """Ghosts of each intrinsic map."""
        return self.ghost.s - 1

    @property
    def intrinsic(self) -> int:
        """Intrinsic maps of each group."""
        return self.ghost.intrinsic_maps // self.groups

    @property
    def owns_offsets(self) -> bool:
        """Whether the ghost module has a bias for each output itself."""
        cheap = self.ghost.cheap
        return self.ghost.primary.bias is not None and cheap is not None and cheap.bias is not None

    @torch.no_grad()
    def arrange(self, pairings: list[Pairing]) -> None:
        """Give the ghost module its intrinsic filters, and the order of its outputs."""
        n = self.outputs // self.groups
        kept = torch.cat([p.intrinsic + g * n for g, p in enumerate(pairings)])
        self.ghost.primary.load_state_dict(carve(self.teacher, kept).state_dict())
        # In the concat each group has its intrinsic maps and ghosts side by side.
        own = self.intrinsic * (1 + self.copies)
        order = torch.cat([p.order() + g * own for g, p in enumerate(pairings)])
        self.ghost.set_order(order)

    @torch.no_grad()
    def set_offsets(self, intrinsic: Tensor, ghosts: Tensor, pairings: Sequence[Pairing]) -> None:
        """Put the offsets of the maps where the module, or the norm after it, has room for them.

        Args:
            intrinsic: ``(groups, m)``.
            ghosts: ``(groups, m, copies)``.
            pairings: Which maps those are.
        """
        primary, cheap = self.ghost.primary, self.ghost.cheap
        assert cheap is not None
        if self.owns_offsets:
            assert primary.bias is not None and cheap.bias is not None
            primary.bias.copy_(intrinsic.flatten())
            cheap.bias.copy_(ghosts.flatten())
            return
        n = self.outputs // self.groups
        for g, pairing in enumerate(pairings):
            made = pairing.ghosts >= 0
            self.move_means(pairing.intrinsic + g * n, intrinsic[g])
            self.move_means(pairing.ghosts[made] + g * n, ghosts[g][made])


def find_ghost_pairs(
    segment: Segment, original: nn.Module, converted: nn.Module
) -> Iterator[GhostPair]:
    """The ghost modules that a segment calls, in its order."""
    found = _find(segment, original, converted)
    return (layer for layer in found if isinstance(layer, GhostPair))


def find_layer_pairs(
    segment: Segment, original: nn.Module, converted: nn.Module, whole: nn.Module
) -> Iterator[LayerPair]:
    """The layers that a segment calls and that can be fitted, in its order.

    One that was left is one of them where it is called once and alone has its weight.

    Args:
        segment: Of both networks, or of a part of both.
        original: The original network, or its part.
        converted: The converted network, or its part.
        whole: The converted network.
    """
    shared = _shared(whole)
    for layer in _find(segment, original, converted):
        weight = layer.student._parameters.get("weight")
        is_alone = weight is not None and id(weight) not in shared
        if isinstance(layer, GhostPair) or (layer.node is not None and is_alone):
            yield layer


def _find(segment: Segment, original: nn.Module, converted: nn.Module) -> Iterator[LayerPair]:
    calls = dict(_calls(segment.nodes))
    norms = _norms_in_parts(original) if segment.entry is None else {}
    for name in segment.layers:
        try:
            made, conv = converted.get_submodule(name), original.get_submodule(name)
        except AttributeError:
            continue
        kind = GhostPair if isinstance(made, PairedGhost) else PlainPair
        is_left = type(conv) is type(made) is nn.Linear
        is_linear = is_left or (isinstance(conv, nn.Linear) and isinstance(made, GhostLinear))
        if not (is_linear or (isinstance(conv, CONV_KINDS) and type(made) in _FITTED)):
            continue
        assert isinstance(conv, _ConvNd | nn.Linear)
        nodes = calls.get(name, [])
        node = nodes[0] if len(nodes) == 1 else None
        norm_node = norm_after(node, original)
        norm_name = norms.get(name) if norm_node is None else str(norm_node.target)
        norm = None if norm_name is None else converted.get_submodule(norm_name)
        assert norm is None or isinstance(norm, _BatchNorm)
        yield kind(name, conv, made, norm, node, norm_node)


def _shared(network: nn.Module) -> set[int]:
    """Parameters that several modules have."""
    owners = Counter(id(p) for module in network.modules() for p in module._parameters.values())
    return {key for key, count in owners.items() if count > 1}


def _norms_in_parts(network: nn.Module) -> dict[str, str]:
    """Where a network does not trace: the norm after each layer, in those parts that do."""
    found = {}
    for region in trace(network).regions:
        part = network.get_submodule(region.name)
        for name, nodes in _calls(region.graph.nodes):
            norm_node = norm_after(nodes[0], part) if len(nodes) == 1 else None
            if norm_node is not None:
                found[region.qualify(name)] = region.qualify(str(norm_node.target))
    return found


def _calls(nodes: Iterable[fx.Node]) -> Iterable[tuple[str, list[fx.Node]]]:
    """Names of the modules that are called, and the nodes that call them."""
    calls: dict[str, list[fx.Node]] = {}
    for node in nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    return calls.items()
