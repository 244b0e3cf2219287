"""The schedule, whatever its unit."""

from __future__ import annotations

import math

import pytest

from ghostify.tuning.schedules import ramp_then_cosine


def test_the_rate_rises_from_its_start_and_falls_to_zero():
    rates = [ramp_then_cosine(done, 10, 100, start=0.1) for done in range(101)]
    assert rates[0] == 0.1 and rates[10] == 1.0 == max(rates)
    assert rates[:11] == sorted(rates[:11]) and rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[55] == pytest.approx(0.5) and rates[-1] == pytest.approx(0.0)


@pytest.mark.parametrize("start", [0.0, 0.1])
def test_steps_and_parts_of_the_whole_give_the_same(start):
    for done in range(50):
        part = ramp_then_cosine(done / 50, 0.2, 1.0, start)
        assert part == pytest.approx(ramp_then_cosine(done, 10, 50, start))


def test_without_a_ramp_and_with_nothing_else_it_is_finite():
    assert ramp_then_cosine(0, 0, 8) == 1.0
    assert ramp_then_cosine(8, 8, 8) == 1.0 and math.isfinite(ramp_then_cosine(7, 8, 8))
