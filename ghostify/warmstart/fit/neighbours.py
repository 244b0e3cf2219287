"""Nodes of a graph around a layer that is fitted: the norm after it, additions."""

from __future__ import annotations

import operator

import torch
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm

ADDITIONS = (operator.add, operator.iadd, torch.add)


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
