"""Widths written into a block's code (``x.split(64, 1)``, ``x[:, :64]``), scaled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import fx

from ghostify.thinning.values import Value

_NARROW = frozenset({"narrow", torch.narrow})
_SPLIT = frozenset({"split", "split_with_sizes", torch.split, torch.split_with_sizes})

ALWAYS_RESCALED = frozenset({operator.getitem}) | _NARROW | _SPLIT
"""Ops that run on thin maps with the original's numbers too, and then take the wrong part."""

_Arguments = tuple[tuple[Any, ...], dict[str, Any]]
_Scale = Callable[[Any], Any]


def rescaled_arguments(node: fx.Node, values: Mapping[fx.Node, Value]) -> Iterator[_Arguments]:
    """Arguments to try for a node that doesn't work on thin maps.

    First its own, with whole numbers scaled as the channels of its input are (as they are, where
    its input did not change): all numbers along the channels where the op is known to take some,
    else one at a time. Then widths read off a thin map, as the original's: the map that they are
    for may have kept its width.
    """
    source = node.args[0] if node.args else None
    value = values.get(source) if isinstance(source, fx.Node) else None
    changed = [] if value is None else value.changed_dims
    if value is None or len(changed) != 1:
        yield node.args, dict(node.kwargs)
    else:
        thin, original = value.thin.shape[changed[0]], value.original.shape[changed[0]]
        scale = partial(_scaled, thin=thin, original=original)
        yield from _arguments(node, changed[0], value.original.ndim, scale)
    for other in node.all_input_nodes:
        value = values.get(other)
        if value is not None and isinstance(value.original, int) and value.thin != value.original:
            number = value.original
            yield _put(node.args, other, number), _put(node.kwargs, other, number)


def _put(arguments: Any, node: fx.Node, number: int) -> Any:
    """Arguments with a number in a node's place."""
    return fx.node.map_arg(arguments, lambda other: number if other is node else other)


def _arguments(node: fx.Node, dim: int, ndim: int, scale: _Scale) -> Iterator[_Arguments]:
    """Arguments with scaled numbers, for an input with channels along ``dim``."""
    source, *rest = node.args
    keywords = dict(node.kwargs)
    if node.target is operator.getitem:
        index = rest[0]
        if isinstance(index, tuple) and len(index) > dim and Ellipsis not in index:
            rest = [(*index[:dim], scale(index[dim]), *index[dim + 1 :])]
        yield (source, *rest), keywords
    elif node.target in ALWAYS_RESCALED:
        place = 0 if node.target in _NARROW else 1
        axis: Any = keywords.get("dim", rest[place] if len(rest) > place else 0)
        if isinstance(axis, int) and axis % ndim == dim:
            rest = [item if i == place else scale(item) for i, item in enumerate(rest)]
            keywords = {key: v if key == "dim" else scale(v) for key, v in keywords.items()}
        yield (source, *rest), keywords
    else:
        for position, argument in enumerate(rest):
            for changed in _one_at_a_time(argument, scale):
                yield (source, *rest[:position], changed, *rest[position + 1 :]), keywords


def _one_at_a_time(argument: Any, scale: _Scale) -> Iterator[Any]:
    if isinstance(argument, int) and not isinstance(argument, bool) and argument > 1:
        yield scale(argument)
    elif isinstance(argument, list | tuple):
        for index, item in enumerate(argument):
            for changed in _one_at_a_time(item, scale):
                yield type(argument)([*argument[:index], changed, *argument[index + 1 :]])


def _scaled(number: Any, thin: int, original: int) -> Any:
    """A number (or slice, or list of numbers) scaled."""
    scale = partial(_scaled, thin=thin, original=original)
    if isinstance(number, slice):
        return slice(scale(number.start), scale(number.stop), number.step)
    if isinstance(number, list | tuple):
        return type(number)(map(scale, number))
    if isinstance(number, int) and not isinstance(number, bool):
        return number * thin // original
    return number
