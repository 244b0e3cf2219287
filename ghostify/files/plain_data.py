"""Reading YAML and JSON that come from outside: numbers, texts, lists and mappings, and no more.

Size, depth and number of values are limited before anything is built of them, so that no text
takes more time or memory than its own length; there are no aliases, no tags and no second value
for a key.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import yaml

from ghostify.errors import first_line, shown
from ghostify.files.access import MAX_BYTES

MAX_VALUES = 500_000
MAX_DEPTH = 32

# The reader in C is ten times faster, and takes and refuses the same; not every build has it.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")


class UnreadableError(ValueError):
    """A text that holds no plain data, or too much of it; its message is the reason."""


def read_yaml(text: str) -> Any:
    """The plain data of a YAML text.

    Raises:
        UnreadableError: It is no YAML, or holds more than plain data.

    Example:
        >>> read_yaml("s: {layer1: 2, '*': 4}")
        {'s': {'layer1': 2, '*': 4}}
    """
    _check_size(text.encode("utf-8", "surrogatepass"))
    try:
        _check_extent(yaml.parse(text, Loader=_Loader))
        return yaml.load(text, Loader=_PlainLoader)
    except yaml.YAMLError as error:
        raise UnreadableError(" ".join(str(error).split())) from error
    except (ValueError, KeyError, RecursionError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"a value in it can't be read: {first_line(error)}") from error


def read_json(text: str) -> Any:
    """The plain data of a JSON text.

    Raises:
        UnreadableError: It is no JSON, too deep, or has a key twice.
    """
    _check_size(text.encode("utf-8", "surrogatepass"))
    try:
        data = json.loads(text, object_pairs_hook=_mapping)
    except RecursionError as error:
        raise UnreadableError(f"it is nested more than {MAX_DEPTH} deep") from error
    except ValueError as error:
        raise UnreadableError(first_line(error)) from error
    check_extent(data)
    return data


def check_extent(data: Any) -> None:
    """Raise `UnreadableError` where data is deeper, or holds more values, than may be read."""
    values, level, depth = 1, [data], 0
    while level := [item for value in level for item in _inside(value)]:
        values, depth = values + len(level), depth + 1
        _check_numbers(values, depth)


def _inside(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return [*value.values()]
    return value if isinstance(value, list | tuple) else ()


def _check_size(content: bytes) -> None:
    if len(content) > MAX_BYTES:
        raise UnreadableError(f"it is longer than {MAX_BYTES:,} bytes")


def _check_numbers(values: int, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise UnreadableError(f"it is nested more than {MAX_DEPTH} deep")
    if values > MAX_VALUES:
        raise UnreadableError(f"it holds more than {MAX_VALUES:,} values")


def _check_extent(events: Iterator[Any]) -> None:
    """Count values and depth while a text is scanned, and stop at the first that is too much."""
    values = depth = 0
    for event in events:
        if isinstance(event, yaml.AliasEvent):
            raise UnreadableError(f"it refers to another value (*{event.anchor}): write it out")
        if getattr(event, "tag", None) is not None:
            raise UnreadableError(f"it has a tag ({shown(event.tag)}): leave it out")
        values += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        _check_numbers(values, depth)


def _mapping(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for key, value in pairs:
        if key in found:
            raise UnreadableError(f"the key {shown(key)} is given twice")
        found[key] = value
    return found


class _PlainLoader(_Loader):
    """Numbers, booleans, nulls, texts, lists and mappings; a date is a text."""

    yaml_constructors: ClassVar = {
        tag: make
        for tag, make in _Loader.yaml_constructors.items()
        if tag is None or tag.rpartition(":")[2] in _KINDS
    }
    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, like) for tag, like in found if tag.rpartition(":")[2] in _KINDS]
        for first, found in _Loader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """A mapping whose keys are all different."""
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, str | int | float | None):
                raise UnreadableError(f"the key {shown(key)} is no text")
        _mapping([(key, None) for key in keys])
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found
