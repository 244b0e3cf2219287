"""Nodes of a graph around a layer that is fitted: the norm after it, additions, activations."""

from __future__ import annotations

import operator
from math import inf

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

ADDITIONS = (operator.add, operator.iadd, torch.add)

ACTIVE = {
    nn.ReLU: (0.0, inf), nn.ReLU6: (0.0, 6.0), nn.Hardswish: (-3.0, inf),
    nn.Hardsigmoid: (-3.0, 3.0), F.relu: (0.0, inf), F.relu6: (0.0, 6.0),
    F.hardswish: (-3.0, inf), F.hardsigmoid: (-3.0, 3.0), torch.relu: (0.0, inf),
    torch.relu_: (0.0, inf), "relu": (0.0, inf), "relu_": (0.0, inf),
}  # fmt: skip
"""Activations with constant parts: the inputs between which each is not constant."""


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


def added_to(node: fx.Node | None) -> fx.Node | None:
    """The node whose value is added to another's, where nothing else reads that."""
    users = list(node.users) if node is not None else []
    if len(users) != 1 or users[0].target not in ADDITIONS or len(users[0].args) != 2:
        return None
    other = next((arg for arg in users[0].args if arg is not node), None)
    return other if isinstance(other, fx.Node) else None


def active_between(node: fx.Node, network: nn.Module) -> tuple[float, float] | None:
    """The range of a node's values outside which all that read it are constant.

    Returns:
        None where something else than an activation reads the value, or one without constant parts.
    """
    ranges = [_active(user, network) for user in node.users]
    known = [own for own in ranges if own is not None]
    if not known or len(known) < len(ranges):
        return None
    return min(low for low, _ in known), max(high for _, high in known)


def _active(node: fx.Node, network: nn.Module) -> tuple[float, float] | None:
    if node.op == "output":
        return None
    if node.op != "call_module":
        return ACTIVE.get(node.target)
    layer = network.get_submodule(str(node.target))
    if type(layer) is nn.Hardtanh:
        return layer.min_val, layer.max_val
    return ACTIVE.get(type(layer))
