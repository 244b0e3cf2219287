"""Networks as fast as one asks, as measured: what `recovery.py --time` compares.

Each is the least changed of its kind whose time in the runtime is at most the part asked for: ghost
modules with one s for all layers or an s by MACs, and pruned networks. What the clock chooses comes
from `ghostify.plan` itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import nn

import ghostify

HALVINGS = 6
SLACK = 0.01  # what is as fast as the time is known

T = TypeVar("T")


@dataclass(frozen=True)
class Clock:
    """Time of a network as a part of the original's: one image, one thread, CPU time."""

    original: nn.Module
    runtime: str
    target: float
    seconds: float = 10.0

    def ratio(self, network: nn.Module) -> float:
        """The measured part."""
        found = ghostify.benchmark(
            self.original, network, runtime=self.runtime, seconds=self.seconds
        )
        return found.rows[1].ratio

    def meets(self, network: nn.Module) -> bool:
        """Whether a network is as fast as asked."""
        found = self.ratio(network)
        print(f"time {found:.3f}", flush=True)
        return found <= self.target + SLACK


def first_in_time(
    clock: Clock, sizes: tuple[int, ...], make: Callable[[int], nn.Module]
) -> int | None:
    """The first size whose network is as fast as asked."""
    return next((size for size in sizes if clock.meets(make(size))), None)


def largest_in_time(
    clock: Clock, make: Callable[[float], T], network_of: Callable[[T], nn.Module]
) -> T:
    """What is made of the largest part of the MACs that is as fast as asked, by halving.

    Raises:
        ValueError: Nothing is.
    """
    found = largest(make, lambda made: clock.meets(network_of(made)), HALVINGS)
    if found is None:
        raise ValueError(f"nothing is as fast as {clock.target} of the time")
    return found


def largest(make: Callable[[float], T], meets: Callable[[T], bool], halvings: int) -> T | None:
    """What is made of the largest part that meets a limit, by halving; None where nothing does.

    A part that nothing can be made of is too small.
    """
    low, high, found = 0.0, 1.0, None
    for _ in range(halvings):
        part = (low + high) / 2
        try:
            made = make(part)
        except (ValueError, ghostify.GhostifyError) as error:
            print(error, flush=True)
            low = part
            continue
        if meets(made):
            low, found = part, made
        else:
            high = part
    return found
