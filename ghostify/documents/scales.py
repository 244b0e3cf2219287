"""Scales of charts: round numbers at their edge, and the parts of a network below them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

MOST_GROUPS = 16
"""Parts of a network that are named below a chart; more would not be readable."""


@dataclass(frozen=True)
class Scale:
    """A scale.

    Attributes:
        bottom: Its lowest number.
        top: Its highest.
        ticks: The numbers that are written beside it.
    """

    bottom: float
    top: float
    ticks: tuple[float, ...]

    def percent(self, value: float) -> float:
        """Where a number lies, between 0 at the bottom and 100 at the top."""
        return 100 * min(max((value - self.bottom) / (self.top - self.bottom), 0.0), 1.0)


def scale_to(highest: float, lowest: float = 0.0) -> Scale:
    """A scale with some three round numbers, that all values lie in.

    It begins at 0 unless the values keep far from it.

    Example:
        >>> scale_to(118_013_952).ticks
        (0.0, 50000000.0, 100000000.0)
        >>> scale_to(92.1, 89.4).ticks
        (90.0, 91.0, 92.0)
    """
    if not (math.isfinite(highest) and math.isfinite(lowest)):
        highest, lowest = 1.0, 0.0
    bottom = lowest if lowest > highest / 2 or lowest < 0 else 0.0
    span = (highest - bottom) or abs(highest) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 2))
    step *= next(times for times in (5, 2, 1) if times * step <= span / 2)
    margin = 0.05 * span
    bottom, top = (bottom - margin if bottom else 0.0), bottom + span + margin
    first, last = math.ceil(bottom / step - 1e-9), math.floor(top / step + 1e-9)
    return Scale(bottom, top, tuple(round(n * step, 12) for n in range(first, last + 1)))


@dataclass(frozen=True)
class Group:
    """Neighbours that lie in one part of a network.

    Attributes:
        name: Of the part.
        start: Number of the first.
        count: How many.
    """

    name: str
    start: int
    count: int


def group_names(names: Sequence[str]) -> list[Group]:
    """Neighbours with the same beginning of their dotted names; each alone where all differ.

    The beginning is the shortest that tells any two apart. Of too many parts there are none.

    Example:
        >>> group_names(["stem", "body.0.a", "body.0.b"])
        [Group(name='stem', start=0, count=1), Group(name='body', start=1, count=2)]
    """
    found: list[Group] = []
    for parts in range(1, 1 + max((name.count(".") for name in names), default=0)):
        found, start = [], 0
        for key, members in groupby(".".join(name.split(".")[:parts]) for name in names):
            count = len([*members])
            found.append(Group(key, start, count))
            start += count
        if len(found) > 1:
            break
    if len(found) < 2:  # names without dots, or all alike
        found = [Group(name, index, 1) for index, name in enumerate(names)]
    return found if len(found) <= MOST_GROUPS else []
