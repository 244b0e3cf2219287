"""Damage: to bytes, to text, and to trees of plain data."""

from __future__ import annotations

import copy
import datetime
import math
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

Path = tuple[Any, ...]

ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, 2, 3, -1, -5, 7, 64, 1000, 10**6 + 1, 10**9, 10**40, 0.5, 1.0, -0.0,
    1e308, math.inf, math.nan, "", "x", "0", "a.b", "*", "\0", "../x", "/etc/passwd", "a" * 300,
    "int8", "float16", "complex64", "nn", "1x3x-5x32", "1x3x99999999999x32", "1x3", "c-ghost",
    "g-ghost", "cg-ghost", "stem", "resnet20-cifar", "os:system", "x.py:build", [], {}, [[]], [1],
    ["x"], [None], {"a": 1}, {"mode": "c-ghost"}, {"mode": ["g-ghost"]}, {1: 2}, b"x",
    datetime.date(2020, 1, 2), [[[[[[1]]]]]],
)  # fmt: skip
"""What does not belong where it stands, most of the time."""

ODD_TEXTS = (
    "", " ", "\n", "\t", ":", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "!!int ",
    "!!python/none ", "!!timestamp ", "|", ">", "'", '"', "%", "@", "`", "#", "---\n", "...\n",
    "\0", "\ufeff", "é",
    "\ud7ff", "? ", "<<: ", "~", ".nan", "-.inf", "0x7f", "1e9", "2020-13-45", "9" * 40, "[" * 50,
)  # fmt: skip


def places(tree: Any, path: Path = ()) -> Iterator[Path]:
    """The places of all values in a tree of dictionaries and lists, itself included."""
    yield path
    items = enumerate(tree) if isinstance(tree, list) else ()
    for key, value in tree.items() if isinstance(tree, dict) else items:
        yield from places(value, (*path, key))


def value_at(tree: Any, path: Path) -> Any:
    """The value at a place."""
    for key in path:
        tree = tree[key]
    return tree


@st.composite
def trees(draw: st.DrawFn, tree: Any, most: int = 2) -> Any:
    """The tree with some values replaced, gone, doubled, renamed or moved."""
    damaged = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, most))):
        known = list(places(damaged))
        path = draw(st.sampled_from(known))
        how = draw(st.sampled_from(("replace", "remove", "double", "rename", "move")))
        if not path:
            damaged = draw(st.sampled_from(ODD_VALUES)) if how == "replace" else damaged
            continue
        holder, key = value_at(damaged, path[:-1]), path[-1]
        if how == "replace":
            holder[key] = copy.deepcopy(draw(st.sampled_from(ODD_VALUES)))
        elif how == "remove":
            del holder[key]
        elif how == "double" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif how == "rename" and isinstance(holder, dict):
            holder[draw(st.sampled_from(("x", "mode", "s", 1, None)))] = holder.pop(key)
        else:
            holder[key] = copy.deepcopy(value_at(damaged, draw(st.sampled_from(known))))
    return damaged


@st.composite
def texts(draw: st.DrawFn, text: str) -> str:
    """The text cut off, or with pieces of syntax in wrong places."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(text)))
        stop = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(st.sampled_from(ODD_TEXTS)) + text[stop:]
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


@st.composite
def damaged(draw: st.DrawFn, data: bytes) -> bytes:
    """The bytes with some of them changed, cut off, or more of them."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(0, 3))):
        # Near the beginning more often than not: that is where a header is.
        end = draw(st.sampled_from((8, 200, len(changed))))
        index = draw(st.integers(0, max(0, min(end, len(changed)) - 1)))
        changed[index : index + 1] = draw(st.binary(max_size=3))
    end = draw(st.sampled_from((None, None, 0, 7, 8, 100, -1, -4)))
    return bytes(changed[:end]) + draw(st.sampled_from((b"", b"", b"\0", b"more")))
