"""Widths written into a block's code (``x.split(64, 1)``, ``x[:, :64]``), scaled."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx

from ghostify.thinning.values import Value

ALWAYS_RESCALED = frozenset(
    {
        operator.getitem,
        "narrow",
        "split",
        "split_with_sizes",
        torch.narrow,
        torch.split,
        torch.split_with_sizes,
    }
)
"""Ops that run on thin maps with the original's numbers too, and then take the wrong part."""


_Arguments = tuple[tuple[Any, ...], dict[str, Any]]


def rescaled_arguments(node: fx.Node, values: Mapping[fx.Node, Value]) -> Iterator[_Arguments]:
    """Arguments to try for a node that doesn't work on thin maps.

    Its whole numbers scaled as the channels of its input are; or widths read off a thin map as the
    original's, where the map that they are for kept its width.
    """
    yield from _scaled(node, values)
    for other in node.all_input_nodes:
        value = values.get(other)
        if value is not None and isinstance(value.original, int) and value.thin != value.original:
            number = value.original
            yield _put(node.args, other, number), _put(node.kwargs, other, number)


def _put(arguments: Any, node: fx.Node, number: int) -> Any:
    """Arguments with a number in a node's place."""
    return fx.node.map_arg(arguments, lambda other: number if other is node else other)


def _scaled(node: fx.Node, values: Mapping[fx.Node, Value]) -> Iterator[_Arguments]:
    """Arguments with whole numbers scaled.

    First as they are where its input did not change; else with all numbers along the channels
    scaled, then with one number scaled at a time.
    """
    source = node.args[0] if node.args else None
    value = values.get(source) if isinstance(source, fx.Node) else None
    ratio = _ratio(value)
    if value is None or ratio is None:
        yield node.args, dict(node.kwargs)
        return
    if node.target is operator.getitem:
        index = node.args[1]
        dim = _changed(value)[0]
        if isinstance(index, tuple) and len(index) > dim and Ellipsis not in index:
            scaled = (*index[:dim], _scale(index[dim], ratio), *index[dim + 1 :])
            yield (node.args[0], scaled), {}
        else:
            yield node.args, dict(node.kwargs)
        return
    rest, keywords = node.args[1:], dict(node.kwargs)
    if node.target in ALWAYS_RESCALED:
        axis: Any = keywords.get("dim", rest[1] if len(rest) > 1 else 0)
        along = isinstance(axis, int) and axis % value.original.ndim == _changed(value)[0]
        first = _scale(rest[0], ratio) if along and rest else rest[0] if rest else None
        yield (node.args[0], first, *rest[1:]) if rest else node.args, keywords
        return
    for position, argument in enumerate(rest):
        for changed in _one_at_a_time(argument, ratio):
            yield (node.args[0], *rest[:position], changed, *rest[position + 1 :]), keywords


def _one_at_a_time(argument: Any, ratio: tuple[int, int]) -> Iterator[Any]:
    if isinstance(argument, int) and not isinstance(argument, bool) and argument > 1:
        yield _scale(argument, ratio)
    elif isinstance(argument, list | tuple):
        for index, item in enumerate(argument):
            for changed in _one_at_a_time(item, ratio):
                yield type(argument)([*argument[:index], changed, *argument[index + 1 :]])


def _scale(number: Any, ratio: tuple[int, int]) -> Any:
    """A number (or slice, or list of numbers) scaled."""
    thin, original = ratio
    if isinstance(number, slice):
        return slice(_scale(number.start, ratio), _scale(number.stop, ratio), number.step)
    if isinstance(number, list | tuple):
        return type(number)(_scale(item, ratio) for item in number)
    if isinstance(number, int) and not isinstance(number, bool):
        return number * thin // original
    return number


def _changed(value: Value) -> list[int]:
    if not isinstance(value.original, Tensor):
        return []
    pairs = enumerate(zip(value.original.shape, value.thin.shape, strict=True))
    return [dim for dim, (size, thin) in pairs if size != thin]


def _ratio(value: Value | None) -> tuple[int, int] | None:
    """Thin and original number of channels, where they differ."""
    changed = _changed(value) if value is not None else []
    if value is None or len(changed) != 1:
        return None
    return value.thin.shape[changed[0]], value.original.shape[changed[0]]
