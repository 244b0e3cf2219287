"""Put modules into the places of others, and undo it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

Undo = Callable[[], None]
"""Puts back what was replaced."""

_Holder = Any
"""A dict, or a list."""

_OWN = frozenset(nn.Module().__dict__)
"""What every module has for itself."""


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
    changes: list[tuple[_Holder, Any, Any]] = []
    for parent in model.modules():
        if parent not in inside:
            for holder, key, old, new in _changes_in(parent, mapping):
                holder[key] = new
                changes.append((holder, key, old))

    def undo() -> None:
        for holder, key, old in reversed(changes):
            holder[key] = old

    return undo


def _changes_in(
    parent: nn.Module, mapping: Mapping[nn.Module, nn.Module]
) -> Iterator[tuple[_Holder, Any, Any, Any]]:
    """What holds a replaced module, where, what is there and what is to be: registered or not.

    Networks also keep modules in plain lists, tuples and dicts, and call them there.
    """
    for key, child in list(parent._modules.items()):
        if child is not None and child in mapping:
            yield parent._modules, key, child, mapping[child]
    seen: set[int] = set()
    for name, value in list(parent.__dict__.items()):
        if name not in _OWN:
            yield from _changes_at(parent.__dict__, name, value, mapping, seen)


def _changes_at(
    holder: _Holder, key: Any, value: Any, mapping: Mapping[nn.Module, nn.Module], seen: set[int]
) -> Iterator[tuple[_Holder, Any, Any, Any]]:
    """The changes at one place, and in the lists, tuples and dicts that lie there."""
    if isinstance(value, nn.Module | tuple):
        new = _swapped(value, mapping)
        if new is not value:
            yield holder, key, value, new
    if isinstance(value, dict | list | tuple) and id(value) not in seen:
        seen.add(id(value))  # some hold themselves
        places = list(value.items()) if isinstance(value, dict) else list(enumerate(value))
        for place, inner in places:
            if isinstance(inner, dict | list) or not isinstance(value, tuple):
                yield from _changes_at(value, place, inner, mapping, seen)


def _swapped(value: Any, mapping: Mapping[nn.Module, nn.Module]) -> Any:
    """A module's replacement, a tuple with the new modules; itself where nothing is replaced."""
    if isinstance(value, nn.Module):
        return mapping.get(value, value)
    if not isinstance(value, tuple):
        return value
    parts = [_swapped(part, mapping) for part in value]
    if all(new is old for new, old in zip(parts, value, strict=True)):
        return value
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
