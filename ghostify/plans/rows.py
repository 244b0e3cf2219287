"""The checks of a plan that comes as data: each value is checked here, none deep in PyTorch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from ghostify.errors import GhostifyError, shown
from ghostify.nn.ghost import check_s_d, sizes_of
from ghostify.settings import GGhost, Settings
from ghostify.settings.base import check_flag, check_number, check_whole

LARGEST_SIZE = 2**31 - 1
"""The most channels, and the largest side of a map or kernel, that a plan may name."""


def check_rows(data: Mapping[str, Any], settings: Settings) -> None:
    """Raise unless data is a plan that follows from settings.

    Raises:
        GhostifyError: A row lacks a value, has one too many, or one that makes no sense.
    """
    layers = _rows(data, "replaced", LAYER)
    stages = _rows(data, "stages", STAGE, is_optional=True)
    for key, is_optional in (("kept", False), ("kept_stages", True)):
        _rows(data, key, KEPT, is_optional)
    _check_texts("untraced", part_of(data, "untraced"))
    if layers and settings.layers is None:
        raise _no_plan(f"it replaces layers, which {settings.mode} does not")
    if stages and settings.stages is None:
        raise _no_plan(f"it rebuilds stages, which {settings.mode} does not")
    for row in layers:
        _check_layer(row)
    for row in stages:
        _check_stage(row, settings.stages)
    names = Counter([row["name"] for row in layers]) + Counter(row["place"] for row in stages)
    for name, times in names.items():
        if times > 1:
            raise _no_plan(f"{shown(name)} is replaced twice")


def part_of(data: Any, key: str) -> Any:
    """One of the parts of a plan."""
    if not isinstance(data, Mapping):
        raise _no_plan(f"it is {shown(data)}")
    if key not in data:
        raise _no_plan(f"it has no {key!r}")
    return data[key]


def _rows(
    data: Mapping[str, Any],
    key: str,
    columns: Mapping[str, Callable[[str, Any], None]],
    is_optional: bool = False,
) -> list[Mapping[str, Any]]:
    """The rows of a part, each with the right columns and kinds of values."""
    rows = data.get(key, ()) if is_optional else part_of(data, key)
    if not isinstance(rows, list | tuple):
        raise _no_plan(f"{key} is {shown(rows)}, and no list")
    for row in rows:
        if not isinstance(row, Mapping):
            raise _no_plan(f"{key} holds {shown(row)}")
        for column, check_value in columns.items():
            if column in row:
                check_value(column, row[column])
            elif column not in _MAY_LACK:
                raise _no_plan(f"a row of {key} has no {column!r}")
        for column in row:
            if column not in columns:
                raise _no_plan(f"a row of {key} has {shown(column)}, which nothing reads")
    return [*rows]


def _check_layer(row: Mapping[str, Any]) -> None:
    check_whole("s", row["s"], 1, row["out_channels"])
    dimensions, d = len(row["kernel_size"]), row["d"]
    d = tuple(d) if isinstance(d, list) else d
    check_s_d(row["s"], d)
    if not 1 <= dimensions <= 3:
        kernel = shown(row["kernel_size"])
        raise _no_plan(f"kernel_size={kernel} makes no sense: give one, two or three sizes")
    sizes_of(d, dimensions)


def _check_stage(row: Mapping[str, Any], settings: GGhost | None) -> None:
    assert settings is not None
    channels = row["channels"]
    check_whole("channels", channels, 2, LARGEST_SIZE)
    check_whole("complicated", row["complicated"], 1, channels - 1)
    if row["out_shape"][-1 if row.get("channels_last") else 1] != channels:
        raise _no_plan(f"out_shape={shown(row['out_shape'])} has no {channels} channels")
    least = 1 if row.get("from_input") else 2 if settings.tail == "thin" else 3
    blocks, functions = row["blocks"], row.get("functions")
    if len(blocks) < least or not all(blocks):
        raise _no_plan(f"blocks={shown(blocks)} are no {least} blocks or more")
    if functions is not None and (len(functions[1]) != len(blocks) or not all(functions[1])):
        raise _no_plan(f"functions={shown(functions)} are not those of {len(blocks)} blocks")


def _check_text(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _no_plan(f"{key} is {shown(value)}, and no text")


def _check_texts(key: str, value: Any) -> None:
    if not isinstance(value, list | tuple):
        raise _no_plan(f"{key} is {shown(value)}, and no list")
    for item in value:
        _check_text(key, item)


def _check_lists(key: str, value: Any) -> None:
    if not isinstance(value, list | tuple):
        raise _no_plan(f"{key} is {shown(value)}, and no list")
    for item in value:
        _check_texts(key, item)


def _check_size(key: str, value: Any) -> None:
    check_whole(key, value, 1, LARGEST_SIZE)


def _check_sizes(key: str, value: Any) -> None:
    if not isinstance(value, list | tuple):
        raise _no_plan(f"{key} is {shown(value)}, and no list of sizes")
    for item in value:
        _check_size(key, item)


def _check_shape(key: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not 3 <= len(value) <= 5:
        raise _no_plan(f"{key} is {shown(value)}, and not (N, C, H, W)")
    for item in value:
        check_whole(key, item, 0, LARGEST_SIZE)


def _check_functions(key: str, value: Any) -> None:
    if value is None:
        return
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise _no_plan(f"{key} is {shown(value)}, and no module with names of its nodes")
    _check_text(key, value[0])
    _check_lists(key, value[1])


def _check_any_whole(key: str, value: Any) -> None:
    check_whole(key, value, -LARGEST_SIZE)  # its bounds follow from the row's other values


def _check_d(key: str, value: Any) -> None:
    _check_any_whole(key, value) if isinstance(value, int) else _check_sizes(key, value)


def _check_share(key: str, value: Any) -> None:
    check_number(key, value, above=0, below=1)


Column = Callable[[str, Any], None]
LAYER: dict[str, Column] = {
    "name": _check_text,
    "kind": _check_text,
    "s": _check_any_whole,
    "d": _check_d,
    "in_channels": _check_size,
    "out_channels": _check_size,
    "kernel_size": _check_sizes,
    "upsampling": _check_size,
    "divisor": _check_size,
}
STAGE: dict[str, Column] = {
    "name": _check_text,
    "place": _check_text,
    "absorbed": _check_texts,
    "blocks": _check_lists,
    "in_shape": _check_shape,
    "out_shape": _check_shape,
    "channels": _check_any_whole,
    "complicated": _check_any_whole,
    "ratio": _check_share,
    "divisor": _check_size,
    "thin_inside": check_flag,
    "functions": _check_functions,
    "channels_last": check_flag,
    "wide": _check_texts,
    "from_input": check_flag,
}
KEPT: dict[str, Column] = {"name": _check_text, "kind": _check_text, "reason": _check_text}
_MAY_LACK = (
    "upsampling", "divisor", "thin_inside", "functions", "channels_last", "wide", "from_input",
)  # fmt: skip


def _no_plan(reason: str) -> GhostifyError:
    return GhostifyError(f"This is no plan ({reason}): give what Plan.to_dict() returned.")
