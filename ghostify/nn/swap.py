"""Put modules into the places of others, and undo it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import nn

Undo = Callable[[], None]
"""Puts back what was replaced."""


def replace_modules(model: nn.Module, mapping: Mapping[nn.Module, nn.Module]) -> Undo:
    """Replace modules wherever a network holds them, in place.

    A new module may hold the old one (as a rebuilt stage holds its first block): parents inside the
    new modules are left alone.

    Args:
        model: The network.
        mapping: From the module that is there to the one that takes its place.

    Returns:
        A function that puts the old modules back.

    Example:
        >>> net = nn.Sequential(nn.ReLU(), nn.Tanh())
        >>> undo = replace_modules(net, {net[0]: nn.Identity()})
        >>> print(net[0])
        Identity()
        >>> undo()
        >>> print(net[0])
        ReLU()
    """
    inside = {part for new in mapping.values() for part in new.modules()}
    changes = [
        (parent, key, child)
        for parent in model.modules()
        if parent not in inside
        for key, child in parent._modules.items()
        if child is not None and child in mapping
    ]
    for parent, key, child in changes:
        parent._modules[key] = mapping[child]

    def undo() -> None:
        for parent, key, child in changes:
            parent._modules[key] = child

    return undo
