"""The search for a choice that keeps to a time: the times are made up, nothing is measured."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostify.deploy.clock.search import Choice, Search, WholeTime, left_by_choice, search
from ghostify.errors import SettingsError

TIMES = {
    "a": {1: 10.0, 2: 6.0, 4: 4.0},
    "b": {1: 10.0, 2: 6.0, 4: 4.0},
    "slow": {1: 1.0, 2: 1.5, 4: 1.2},
}
LOSSES = {"a": {2: 1.0, 4: 3.0}, "b": {2: 5.0, 4: 9.0}, "slow": {2: 0.0, 4: 0.0}}


def whole(asked: Search, choice: Choice, part: float = 1.0, overhead: float = 0.0) -> WholeTime:
    """A network that really saves a part of what its layers say."""
    ratio = 1 - part * asked.saved(choice) / asked.total + overhead
    return WholeTime(asked.total, asked.total * ratio, ratio, ratio - 0.01, ratio + 0.01)


def test_the_layer_that_loses_least_is_taken_first() -> None:
    asked = Search(TIMES, LOSSES, 25.0, 0.85)
    choice, found = search(asked, lambda c: whole(asked, c), 0.85, "r")
    assert choice == {"a": 2, "b": 1, "slow": 1}
    assert found.ratio == pytest.approx(0.84)


def test_what_is_slower_as_ghosts_is_never_chosen_however_little_it_loses() -> None:
    asked = Search(TIMES, LOSSES, 25.0, 0.6)
    assert search(asked, lambda c: whole(asked, c), 0.6, "r")[0]["slow"] == 1


def test_no_layer_gets_more_than_twice_what_would_do_for_all() -> None:
    forms = {1: 10.0, 2: 5.0, 4: 4.0, 8: 3.0}
    asked = Search(
        {"a": forms, "b": forms}, {"a": dict.fromkeys(forms, 0.0), "b": {2: 9.0}}, 20, 0.6
    )
    assert max(asked.choose(8.0).values()) <= 4


def test_layers_that_promise_too_much_are_asked_for_more() -> None:
    asked = Search(TIMES, LOSSES, 25.0, 0.85)
    tries: list[Choice] = []

    def measure(choice: Choice) -> WholeTime:
        tries.append(choice)
        return whole(asked, choice, part=0.7)

    choice, found = search(asked, measure, 0.85, "r")
    assert found.ratio <= 0.85
    assert tries[0] == {"a": 2, "b": 1, "slow": 1} and choice == {"a": 4, "b": 1, "slow": 1}


def test_layers_that_promise_too_little_are_asked_for_less() -> None:
    forms = {1: 10.0, 2: 9.0}
    names = list("abcdefgh")
    losses = {name: {2: float(index)} for index, name in enumerate(names)}
    asked = Search(dict.fromkeys(names, forms), losses, 80.0, 0.92)
    choice, found = search(asked, lambda c: whole(asked, c, part=2.0), 0.92, "r")
    assert 0.9 <= found.ratio <= 0.92
    chosen = [name for name, s in choice.items() if s > 1]
    assert chosen == names[: len(chosen)] and len(chosen) < 6


def test_a_correction_that_goes_too_far_is_taken_back_by_halves() -> None:
    forms = {1: 10.0, 2: 9.0}
    names = list("abcdefghijklmnop")
    losses = {name: {2: float(index + 1)} for index, name in enumerate(names)}
    asked = Search(dict.fromkeys(names, forms), losses, 160.0, 0.96)

    def measure(choice: Choice) -> WholeTime:  # few save nearly nothing, many twice as much
        count = sum(s > 1 for s in choice.values())
        return whole(asked, choice, part=0.2 if count < 8 else 1.0 if count < 12 else 2.0)

    choice, found = search(asked, measure, 0.96, "r")
    assert sum(s > 1 for s in choice.values()) <= 9 and found.ratio <= 0.96


def test_what_cannot_be_reached_says_how_far_it_gets() -> None:
    asked = Search(TIMES, LOSSES, 25.0, 0.4)
    with pytest.raises(SettingsError, match=r"target_latency=0.4 .* in r: .* 0.520 of the time"):
        search(asked, lambda c: whole(asked, c), 0.4, "r")


def test_a_time_that_is_met_already_converts_nothing() -> None:
    asked = Search(TIMES, LOSSES, 25.0, 2.0)
    choice, _ = search(asked, lambda c: whole(asked, c), "50ms", "r")
    assert set(choice.values()) == {1}


parts = st.floats(0.3, 2.0)
milliseconds = st.floats(0.1, 20.0)
layers = st.lists(
    st.tuples(milliseconds, milliseconds, milliseconds, st.floats(0, 5), st.floats(0, 9)),
    min_size=1, max_size=8,
)  # fmt: skip


@given(layers, parts, st.floats(0.3, 0.99))
@settings(max_examples=150, deadline=None)
def test_a_choice_keeps_to_the_time_as_measured_or_none_does(
    rows: list[tuple[float, ...]], part: float, goal: float
) -> None:
    times = {str(i): {1: row[0], 2: row[1], 4: row[2]} for i, row in enumerate(rows)}
    losses = {str(i): {2: row[3], 4: row[3] + row[4]} for i, row in enumerate(rows)}
    asked = Search(times, losses, 1.1 * sum(row[0] for row in rows), goal)
    measured: list[WholeTime] = []

    def measure(choice: Choice) -> WholeTime:
        measured.append(whole(asked, choice, part))
        return measured[-1]

    try:
        choice, found = search(asked, measure, goal, "r")
    except SettingsError:
        assert whole(asked, asked.fastest(), part).ratio > goal
    else:
        assert found.ratio <= goal and found == whole(asked, choice, part)
    assert len(measured) <= 7


def test_each_layer_that_is_left_has_its_reason() -> None:
    choice = {"a": 2, "b": 1, "slow": 1}
    assert left_by_choice(TIMES, choice, ["a", "b", "slow", "untimed"], "r") == {
        "b": "the time in r that was asked for is met without it",
        "slow": "no ghosts are faster in r",
        "untimed": "not timed in r",
    }
