"""Calls of networks that take anything: one tensor, several, or by keyword."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True, eq=False)
class Arguments:
    """What one call of a network is given.

    A network that takes one tensor is simply given that; this stands for all else.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def call(network: Callable[..., Any], given: Any) -> Any:
    """What a network, or a part of one, makes of `Arguments` or of one value.

    Example:
        >>> call(max, Arguments((1, 5))), call(abs, -2)
        (5, 2)
    """
    if isinstance(given, Arguments):
        return network(*given.args, **given.kwargs)
    return network(given)


def names_of(network: nn.Module, given: Any) -> frozenset[str] | None:
    """Names of the arguments of a network's forward that a call gives; None where it gives one.

    Example:
        >>> names_of(nn.Bilinear(1, 2, 3), Arguments(("x",), {"input2": "y"})) == {
        ...     "input1", "input2"}
        True
    """
    if not isinstance(given, Arguments):
        return None
    try:
        bound = inspect.signature(network.forward).bind(*given.args, **given.kwargs)
    except (TypeError, ValueError):
        return None
    return frozenset(bound.arguments)
