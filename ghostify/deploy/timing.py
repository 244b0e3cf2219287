"""Measured time: contestants in alternation, until the ratio is known well enough."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

Work = Callable[[], object]
"""Something that runs once, to its end or (on a GPU) until it is queued."""
Timer = Callable[[Work], float]
"""Runs work and tells its seconds."""

CONFIDENCE = 0.95
LEAST_ROUNDS = 8

LOOK = 0.01
"""Seconds for which a process is looked at: some systems count CPU time in steps of 4 ms."""

IDLE = 0.2
"""Part of a core below which it is idle."""

LONGEST_WAIT = 0.25
"""Seconds after which it is measured in any case."""


@dataclass(frozen=True)
class Timing:
    """Times of one contestant.

    Attributes:
        seconds: Of each round.
        ratio: Median of the rounds' ratios to the first contestant's time.
        low: Lower end of the ratio's confidence interval.
        high: Upper end.
    """

    seconds: tuple[float, ...]
    ratio: float
    low: float
    high: float

    @property
    def typical(self) -> float:
        """The median, in seconds."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """Half of the middle half's width, as a part of the median."""
        ordered = sorted(self.seconds)
        quarter = len(ordered) // 4
        return (ordered[-1 - quarter] - ordered[quarter]) / 2 / self.typical


def timed_by(clock: Callable[[], float]) -> Timer:
    """A timer that reads a clock before and after."""

    def timer(work: Work) -> float:
        start = clock()
        work()
        return max(clock() - start, 1e-9)

    return timer


def timed_when_idle(work: Work) -> float:
    """The wall time of a run that starts when the threads of the one before have come to rest.

    Runtimes let their threads spin after a run, in case that the next one comes soon. Where several
    contestants have threads of their own, those of one would take the cores of the next: in ONNX
    Runtime with two threads on two cores it takes 2.8 times as long then.
    """
    _wait_until_idle()
    return timed_by(time.perf_counter)(work)


def _wait_until_idle() -> None:
    end = time.perf_counter() + LONGEST_WAIT
    while time.perf_counter() < end:
        start, busy = time.perf_counter(), time.process_time()
        time.sleep(LOOK)
        if time.process_time() - busy < IDLE * (time.perf_counter() - start):
            return


def timed_by_events(work: Work) -> float:
    """The time between two events on the GPU's queue, before and after the work."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return max(float(start.elapsed_time(end)) / 1e3, 1e-9)


def timed_on_mps(work: Work) -> float:
    """The wall time until an Apple GPU is done."""

    def to_its_end() -> None:
        work()
        torch.mps.synchronize()

    return timed_by(time.perf_counter)(to_its_end)


def alternate(
    works: Mapping[str, Work],
    *,
    seconds: float,
    precision: float,
    timer: Timer | None = None,
    told: Callable[[float], None] | None = None,
) -> dict[str, Timing]:
    """Time contestants in turn, so that all meet the same machine.

    Two rounds warm up. It ends when the interval of each ratio is narrower than ``precision`` on
    both sides, or when the time is up (after `LEAST_ROUNDS` at the least).

    Args:
        works: The contestants; the first is what the others are compared with.
        seconds: The most time to take.
        precision: Half width of the ratios' intervals that is enough, as a part of the ratio.
        timer: What tells the time of a run; the wall clock if not given.
        told: Told after each round which part of the time is spent.
    """
    timer = timed_by(time.perf_counter) if timer is None else timer
    for work in works.values():
        work()
        work()
    rounds: list[list[float]] = []
    end = time.perf_counter() + seconds
    collects = gc.isenabled()
    gc.disable()  # its pauses would fall on whoever is running
    try:
        while True:
            rounds.append([timer(work) for work in works.values()])
            if told is not None and seconds > 0:
                told(min(1.0, 1 - (end - time.perf_counter()) / seconds))
            is_enough = len(rounds) >= LEAST_ROUNDS
            if is_enough and (time.perf_counter() > end or _are_narrow(rounds, precision)):
                break
    finally:
        if collects:
            gc.enable()
    columns = list(zip(*rounds, strict=True))
    ratios = [[own / first for own, first in zip(c, columns[0], strict=True)] for c in columns]
    return {
        name: Timing(tuple(column), median(ratio), *interval_of_median(ratio))
        for name, column, ratio in zip(works, columns, ratios, strict=True)
    }


def interval_of_median(values: Sequence[float]) -> tuple[float, float]:
    """The interval that holds the median of what the values are drawn from, 95 times of 100.

    By order statistics: how many of n values lie below the median is binomial, whatever their
    distribution.

    Example:
        >>> interval_of_median([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
        (2, 9)
    """
    n, ordered = len(values), sorted(values)
    below, cut = 1 / 2**n, 0  # the chance that at most ``cut`` values lie below the median
    while below + math.comb(n, cut + 1) / 2**n <= (1 - CONFIDENCE) / 2:
        cut += 1
        below += math.comb(n, cut) / 2**n
    return ordered[cut], ordered[n - 1 - cut]


def _are_narrow(rounds: Sequence[Sequence[float]], precision: float) -> bool:
    if len(rounds) % LEAST_ROUNDS:
        return False  # looking after each round would end at the first lucky one
    for index in range(1, len(rounds[0])):
        ratios = [times[index] / times[0] for times in rounds]
        low, high = interval_of_median(ratios)
        if high - low > 2 * precision * median(ratios):
            return False
    return True
