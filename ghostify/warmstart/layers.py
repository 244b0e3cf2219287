"""A ghost module and the layer it stands for, as the fit sees them: groups, norm, order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.graph.segments import Segment
from ghostify.graph.trace import trace
from ghostify.nn.ghost import GhostConv2d
from ghostify.nn.start import carve
from ghostify.warmstart.pairing import Pairing


@dataclass(frozen=True)
class Subject:
    """A ghost module to fit.

    Attributes:
        name: Qualified name.
        conv: The layer of the original.
        ghost: The ghost module of the converted network.
        norm: The norm of the converted network that alone reads the ghost module's output.
        node: The node of the graph that calls it, where it is called once.
        norm_node: The node of the norm.
    """

    name: str
    conv: nn.Conv2d
    ghost: GhostConv2d
    norm: _BatchNorm | None = None
    node: fx.Node | None = None
    norm_node: fx.Node | None = None

    @property
    def groups(self) -> int:
        """Groups of the convolution; each is paired for itself."""
        return self.conv.groups

    @property
    def copies(self) -> int:
        """Ghosts of each intrinsic map."""
        return self.ghost.s - 1

    @property
    def intrinsic(self) -> int:
        """Intrinsic maps of each group."""
        return self.ghost.primary.out_channels // self.groups

    @property
    def linear(self) -> bool:
        """Whether the primary's weight is its filter, as it is not in subclasses of Conv2d."""
        return type(self.conv) is nn.Conv2d

    @property
    def has_offsets(self) -> bool:
        """Whether all outputs can have an offset of their own: a bias, or the norm's mean."""
        return self.norm is not None or self.owns_offsets

    @property
    def owns_offsets(self) -> bool:
        """Whether the ghost module has a bias for each output itself."""
        cheap = self.ghost.cheap
        return self.ghost.primary.bias is not None and cheap is not None and cheap.bias is not None

    @torch.no_grad()
    def arrange(self, pairings: list[Pairing]) -> None:
        """Give the ghost module its intrinsic filters, and the order of its outputs."""
        n = self.conv.out_channels // self.groups
        kept = torch.cat([p.intrinsic + g * n for g, p in enumerate(pairings)])
        self.ghost.primary.load_state_dict(carve(self.conv, kept).state_dict())
        # In the concat each group has its intrinsic maps and ghosts side by side.
        own = self.intrinsic * (1 + self.copies)
        order = torch.cat([p.order() + g * own for g, p in enumerate(pairings)])
        self.ghost.set_order(order)

    @torch.no_grad()
    def set_offsets(self, intrinsic: Tensor, ghosts: Tensor, pairings: list[Pairing]) -> None:
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
        if self.norm is None or self.norm.running_mean is None:
            return
        n = self.conv.out_channels // self.groups
        for g, pairing in enumerate(pairings):
            mean = self.norm.running_mean[g * n : (g + 1) * n]
            mean[pairing.intrinsic] -= intrinsic[g].to(mean)
            made = pairing.ghosts >= 0
            mean[pairing.ghosts[made]] -= ghosts[g][made].to(mean)


def find_subjects(segment: Segment, original: nn.Module, converted: nn.Module) -> Iterator[Subject]:
    """The ghost modules that a segment calls, in its order."""
    calls = dict(_calls(segment.nodes))
    norms = _norms_in_parts(original) if segment.entry is None else {}
    for name in segment.layers:
        try:
            ghost, conv = converted.get_submodule(name), original.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(ghost, GhostConv2d) and isinstance(conv, nn.Conv2d):
            nodes = calls.get(name, [])
            node = nodes[0] if len(nodes) == 1 else None
            norm_node = norm_after(node, original)
            norm_name = norms.get(name) if norm_node is None else str(norm_node.target)
            norm = None if norm_name is None else converted.get_submodule(norm_name)
            assert norm is None or isinstance(norm, _BatchNorm)
            yield Subject(name, conv, ghost, norm, node, norm_node)


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


def norm_after(node: fx.Node | None, network: nn.Module) -> fx.Node | None:
    """The batch norm that alone reads a node's value, and reads nothing else."""
    users = list(node.users) if node is not None else []
    if len(users) != 1 or users[0].op != "call_module":
        return None
    found: fx.Node = users[0]
    norm = network.get_submodule(str(found.target))
    calls = [n for n in found.graph.nodes if n.op == "call_module" and n.target == found.target]
    is_plain = isinstance(norm, _BatchNorm) and norm.running_mean is not None
    return found if is_plain and len(calls) == 1 else None
