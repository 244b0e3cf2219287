"""Learning rates over a tuning."""

from __future__ import annotations

import math


def ramp_then_cosine(done: float, ramp: float, total: float, start: float = 0.0) -> float:
    """Part of the highest rate: up along a ramp, then half a cosine down to zero.

    Args:
        done: How far the tuning is: in steps, or as a part of the whole.
        ramp: Where the ramp ends and the rate is highest, in the same unit.
        total: Where the tuning ends.
        start: Part of the rate at which the ramp begins.

    Example:
        >>> [round(ramp_then_cosine(done, 2, 10, start=0.1), 2) for done in (0, 1, 2, 6, 10)]
        [0.1, 0.55, 1.0, 0.5, 0.0]
    """
    if done < ramp:
        return start + (1 - start) * done / ramp
    fallen = math.pi * (done - ramp) / max(total - ramp, 1e-9)
    return 0.5 * (1 + math.cos(fallen))
