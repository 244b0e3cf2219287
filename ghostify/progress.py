"""What a long call tells while it runs: what is done now, and how much of it is behind.

A caller gives any function that takes a text (``print``, a logger's ``info``). Where it is known
how much there is to do, the text is a `Milestone`, from which a bar can tell the time that is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeVar

T = TypeVar("T")

Progress: TypeAlias = Callable[[str], None]
"""A function that is told what is done now."""


class Milestone(str):
    """What is done now, and which part of the whole is behind: a text with a number.

    Args:
        text: What is done now.
        share: Part that is done already, 0 to 1. Where it falls, something new begins.

    Example:
        >>> told = Milestone("fitting layer1.0.conv1", 0.25)
        >>> print(told, told.share)
        fitting layer1.0.conv1 0.25
    """

    __slots__ = ("share",)
    share: float

    def __new__(cls, text: str, share: float) -> Milestone:  # noqa: D102 (the class says it)
        made = super().__new__(cls, text)
        made.share = min(max(share, 0.0), 1.0)
        return made


def silent(_: str) -> None:
    """A `Progress` that says nothing."""


def tell_each(progress: Progress, items: Sequence[T], describe: Callable[[T], str]) -> Iterator[T]:
    """Go through items, and tell which one is at work and how many are behind.

    Example:
        >>> show = lambda told: print(told, told.share)
        >>> for _ in tell_each(show, ["a", "b"], "fitting {}".format):
        ...     pass
        fitting a 0.0
        fitting b 0.5
    """
    for index, item in enumerate(items):
        progress(Milestone(describe(item), index / len(items)))
        yield item
