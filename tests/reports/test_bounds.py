from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostify.cost import Cost
from ghostify.errors import SettingsError
from ghostify.reports import Report
from ghostify.reports.bounds import Bounds, check

NAMES = [field.name for field in dataclasses.fields(Bounds)]


def report(before: Cost, after: Cost) -> Report:
    return Report("net", "c-ghost", before, after, ())


HALVED = report(Cost(100, 1000, 50), Cost(50, 500, 50))


def missed(bounds: Bounds, found: Report = HALVED) -> list[str]:
    return [verdict.bound for verdict in check(found, bounds) if not verdict.met]


def test_a_bound_that_is_just_met_holds():
    assert missed(Bounds(2, 2, 1, 50, 500)) == []


def test_each_bound_is_missed_alone():
    assert missed(Bounds(min_params_ratio=2.001)) == ["min_params_ratio"]
    assert missed(Bounds(min_macs_ratio=2.001)) == ["min_macs_ratio"]
    assert missed(Bounds(min_acts_ratio=1.001)) == ["min_acts_ratio"]
    assert missed(Bounds(max_params=49)) == ["max_params"]
    assert missed(Bounds(max_macs=499)) == ["max_macs"]


def test_there_is_a_verdict_for_each_bound_given_in_order():
    verdicts = check(HALVED, Bounds(min_acts_ratio=1, max_macs=1, min_params_ratio=3))
    assert [v.bound for v in verdicts] == ["min_params_ratio", "min_acts_ratio", "max_macs"]


def test_what_could_not_be_counted_meets_no_bound():
    unknown = report(Cost(100, None, None, None), Cost(50, None, None, None))
    assert missed(Bounds(2, 1, 1, 50, 1e9), unknown) == [
        "min_macs_ratio",
        "min_acts_ratio",
        "max_macs",
    ]
    verdict = check(unknown, Bounds(max_macs=1e9))[0]
    assert str(verdict) == "macs is unknown, must be at most 1,000,000,000"


def test_what_was_not_counted_whole_meets_no_bound_but_those_on_params():
    partial = dataclasses.replace(HALVED, how="partial", missing="no rule says the MACs of fft")
    assert missed(Bounds(2, 1, 1, 50, 1e9), partial) == [
        "min_macs_ratio",
        "min_acts_ratio",
        "max_macs",
    ]
    verdict = check(partial, Bounds(max_macs=1e9))[0]
    assert str(verdict) == (
        "macs is 500, must be at most 1,000,000,000 "
        "(not counted whole: no rule says the MACs of fft)"
    )


def test_a_count_is_shown_to_the_last_digit():
    found = report(Cost(25_557_033), Cost(25_557_032))
    verdict = check(found, Bounds(max_params=25_557_031))[0]
    assert str(verdict) == "params is 25,557,032, must be at most 25,557,031"


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_ratio_that_misses_its_bound_is_shown_below_it(before, after):
    ratio = before / after
    limit = math.nextafter(ratio, math.inf)
    (verdict,) = check(report(Cost(before), Cost(after)), Bounds(min_params_ratio=limit))
    assert not verdict.met
    shown = str(verdict).split()[3].rstrip(",")
    assert float(shown) <= ratio < limit


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0, -1, "2", True])
def test_a_bound_that_makes_no_sense_is_refused(name, value):
    with pytest.raises(SettingsError, match=f"{name}=.* makes no sense"):
        Bounds(**{name: value})


def test_no_bound_at_all_is_refused():
    with pytest.raises(SettingsError, match="No bound is given: give one of min_params_ratio"):
        check(HALVED, Bounds())
