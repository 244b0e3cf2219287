"""Which layers a caller means: module names, glob patterns, "stem", "head", predicates."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping

from torch import nn

from ghostify.errors import SettingsError, nearest
from ghostify.graph.ends import Ends

Predicate = Callable[[str, nn.Module], bool]
Selector = str | Predicate
"""A module's name (all layers inside it), a glob pattern, ``"stem"``, ``"head"``, a predicate."""


def select(
    selectors: Iterable[Selector], layers: Mapping[str, nn.Module], ends: Ends, option: str
) -> set[str]:
    """Names of the layers that any of the selectors means.

    Args:
        selectors: What the caller gave.
        layers: All layers of the network, by qualified name.
        ends: Its first and last layers, for ``"stem"`` and ``"head"``.
        option: Name of the option, for the error.

    Raises:
        SettingsError: A selector means none of the layers.
    """
    chosen: set[str] = set()
    for selector in selectors:
        found = _matches(selector, layers, ends)
        if not found:
            shown = selector if isinstance(selector, str) else "the predicate"
            hint = nearest(selector, _modules(layers)) if isinstance(selector, str) else ""
            raise SettingsError(
                f"{option}={shown!r} matches no layer{hint}: give a module name, a glob pattern "
                '(like "layer1.*"), "stem" or "head".'
            )
        chosen |= found
    return chosen


def value_for(
    name: str, setting: int | Mapping[str, int], default: int, ends: Ends | None = None
) -> int:
    """The setting that holds for a layer: of the first pattern that matches its name.

    Args:
        name: Qualified name of the layer.
        setting: One number for all, or pattern -> number.
        default: For layers that no pattern matches.
        ends: The network's ends, for the patterns ``"stem"`` and ``"head"``.
    """
    if not isinstance(setting, Mapping):
        return setting
    for pattern, value in setting.items():
        if _means(pattern, name, ends):
            return value
    return default


def _matches(selector: Selector, layers: Mapping[str, nn.Module], ends: Ends) -> set[str]:
    if callable(selector):
        return {name for name, layer in layers.items() if selector(name, layer)}
    return {name for name in layers if _means(selector, name, ends)}


def _means(pattern: str, name: str, ends: Ends | None) -> bool:
    if ends is not None and pattern in ("stem", "head"):
        return name in (ends.stem if pattern == "stem" else ends.head)
    return name == pattern or name.startswith(f"{pattern}.") or fnmatch.fnmatchcase(name, pattern)


def _modules(layers: Mapping[str, nn.Module]) -> set[str]:
    """Names of the layers and of the modules that hold them."""
    names: set[str] = set()
    for name in layers:
        parts = name.split(".")
        names.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
    return names
