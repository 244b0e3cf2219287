"""Which layers a caller means: module names, glob patterns, "stem", "head", predicates."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

from ghostify.errors import SettingsError, nearest

N = TypeVar("N", int, float)
Predicate = Callable[[str, nn.Module], bool]
Selector = str | Predicate
"""A module's name (all layers inside it), a glob pattern, ``"stem"``, ``"head"``, a predicate."""


@dataclass(frozen=True)
class Ends:
    """Names of the layers at both ends.

    Attributes:
        stem: The layers that the input reaches through no other layer.
        head: The layers that reach the output through no other layer.
    """

    stem: frozenset[str]
    head: frozenset[str]


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
        found = matches(selector, layers, ends)
        if not found:
            shown = selector if isinstance(selector, str) else "the predicate"
            hint = nearest(selector, _modules(layers)) if isinstance(selector, str) else ""
            raise SettingsError(
                f"{option}={shown!r} matches no layer{hint}: give a module name, a glob pattern "
                '(like "layer1.*"), "stem" or "head".'
            )
        chosen |= found
    return chosen


def value_for(name: str, setting: N | Mapping[str, N], default: N, ends: Ends | None = None) -> N:
    """The setting that holds for a layer or stage: of the first pattern that matches its name.

    Args:
        name: Its qualified name.
        setting: One number for all, or pattern -> number.
        default: For those that no pattern matches.
        ends: The network's ends, for the patterns ``"stem"`` and ``"head"``.
    """
    if not isinstance(setting, Mapping):
        return setting
    for pattern, value in setting.items():
        if _means(pattern, name, ends):
            return value
    return default


def select_stages(
    selectors: Iterable[Selector], stages: Mapping[str, nn.Module], option: str
) -> set[str]:
    """Names of the stages that any of the selectors means.

    Args:
        selectors: What the caller gave.
        stages: The network's stages: name -> first block, which predicates get.
        option: Name of the option, for the error.

    Raises:
        SettingsError: A selector means none of the stages.
    """
    chosen: set[str] = set()
    for selector in selectors:
        found = matches(selector, stages)
        if not found:
            shown = selector if isinstance(selector, str) else "the predicate"
            known = f"they are {', '.join(stages)}" if stages else "the network has none"
            raise SettingsError(
                f"{option}={shown!r} matches no stage: give the name of a stage or a glob pattern "
                f"({known}; see `ghostify stages`)."
            )
        chosen |= found
    return chosen


def check_something_is_left(kind: str, only: object, keep: object, wanted: set[str]) -> None:
    """Raise `SettingsError` where ``keep`` takes away all that ``only`` names."""
    if only and keep and not wanted:
        raise SettingsError(
            f"keep={keep!r} takes away every {kind} that only={only!r} names: "
            "leave one of them, or name less in keep."
        )


def matches(
    selector: Selector, layers: Mapping[str, nn.Module], ends: Ends | None = None
) -> set[str]:
    """Names of the layers (or stages) that a selector means; none where it means none."""
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
