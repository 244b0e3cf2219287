"""Numbers for a person."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostify.documents import amount, times


@given(st.integers(0, 10**15))
def test_an_amount_has_three_digits_and_the_right_size(value):
    shown = amount(value)
    unit = {"G": 1e9, "M": 1e6, "k": 1e3}.get(shown[-1], 1)
    assert float(shown.rstrip("GMk")) * unit == pytest.approx(value, rel=0.0051)


def test_what_is_unknown_is_a_question_mark():
    assert amount(None) == times(None) == "?"
