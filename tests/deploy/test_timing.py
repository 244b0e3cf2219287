"""Alternating rounds and the interval of their ratio, on a clock of our own."""

from __future__ import annotations

import gc
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

from ghostify.deploy.timing import (
    LEAST_ROUNDS,
    alternate,
    interval_of_median,
    timed_by,
    timed_when_idle,
)


class Clock:
    """A clock that only work moves."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, seconds: list[float]):
        def run() -> None:
            self.calls.append(name)
            self.now += seconds[self.calls.count(name) % len(seconds)]

        return run


def test_contestants_take_turns_and_the_ratio_is_of_the_same_round() -> None:
    clock = Clock()
    # A machine that is twice as slow in every other round: the ratio does not see it.
    works = {"a": clock.work("a", [1.0, 2.0]), "b": clock.work("b", [0.5, 1.0])}
    found = alternate(works, seconds=0, precision=0.01, timer=timed_by(clock))
    turns = clock.calls[4:]
    assert all(one != other for one, other in pairwise(turns))
    assert (found["b"].ratio, found["b"].low, found["b"].high) == (0.5, 0.5, 0.5)
    assert (found["a"].ratio, len(found["a"].seconds)) == (1, LEAST_ROUNDS)


def test_it_goes_on_until_the_interval_is_narrow() -> None:
    clock = Clock()
    noisy = [1.0] * 3 + [1.5] + [1.0] * 30
    works = {"a": clock.work("a", [1.0]), "b": clock.work("b", noisy[3:] + noisy[:3])}
    found = alternate(works, seconds=60, precision=0.001, timer=timed_by(clock))
    assert found["b"].high - found["b"].low <= 0.002


def test_the_collector_runs_again_afterwards() -> None:
    with pytest.raises(ZeroDivisionError):
        alternate({"a": lambda: 1 // len(gc.get_stats()[3:])}, seconds=0, precision=1)
    assert gc.isenabled()


def test_the_interval_holds_the_median_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        values = generator.exponential(size=20)
        low, high = interval_of_median(values.tolist())
        held += low <= np.log(2) <= high
    assert 0.95 <= held / 2000 < 0.985


def begins_after_rest() -> bool:
    """Whether a run waits for a thread that works for 50 ms."""
    numbers = np.random.default_rng(0).random((256, 256))
    stopped = threading.Event()
    rested: list[bool] = []

    def spin() -> None:
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            numbers @ numbers
        stopped.set()

    thread = threading.Thread(target=spin)
    thread.start()
    timed_when_idle(lambda: rested.append(stopped.is_set()))
    thread.join()
    return rested == [True]


def test_a_run_starts_when_the_threads_of_the_one_before_have_come_to_rest() -> None:
    # A busy machine may keep the thread from its work for so long that it seems to rest.
    assert any(begins_after_rest() for _ in range(5))


def test_a_process_that_never_rests_is_measured_all_the_same() -> None:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        assert timed_when_idle(lambda: time.sleep(0.01)) >= 0.01
    finally:
        stop.set()
        thread.join()
