"""A ghost module and the layer it stands for, as the fit sees them: groups, norm, order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.graph.segments import Segment
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
    calls: dict[str, list[fx.Node]] = {}
    for node in segment.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    for name in segment.layers:
        try:
            ghost, conv = converted.get_submodule(name), original.get_submodule(name)
        except AttributeError:
            continue
        if isinstance(ghost, GhostConv2d) and isinstance(conv, nn.Conv2d):
            nodes = calls.get(name, [])
            node = nodes[0] if len(nodes) == 1 else None
            norm_node = _norm_after(node, converted)
            norm = converted.get_submodule(str(norm_node.target)) if norm_node else None
            assert norm is None or isinstance(norm, _BatchNorm)
            yield Subject(name, conv, ghost, norm, node, norm_node)


def _norm_after(node: fx.Node | None, converted: nn.Module) -> fx.Node | None:
    """The batch norm that alone reads a node's value, and reads nothing else."""
    users = list(node.users) if node is not None else []
    if len(users) != 1 or users[0].op != "call_module":
        return None
    found: fx.Node = users[0]
    norm = converted.get_submodule(str(found.target))
    calls = [n for n in found.graph.nodes if n.op == "call_module" and n.target == found.target]
    is_plain = isinstance(norm, _BatchNorm) and norm.running_mean is not None
    return found if is_plain and len(calls) == 1 else None
