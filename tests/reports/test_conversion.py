"""The report as data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostify.api import preview
from ghostify.cost import Cost
from ghostify.cost.theory import approximate_ratio, compression_ratio, speedup_ratio
from ghostify.reports import LayerRow, Report
from ghostify.reports.conversion import SCHEMA

text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=9)
number = st.integers(0, 10**12)
costs = st.builds(Cost, number, number | st.none(), number | st.none(), number | st.none())
factor = st.floats(0.1, 100) | st.none()
rows = st.builds(
    LayerRow, text, text, costs, costs, text, number | st.none(), number | st.none(), factor,
    factor, factor, text | st.none(),
)  # fmt: skip
reports = st.builds(
    Report,
    model=text,
    mode=st.sampled_from(["", "c-ghost"]),
    before=costs,
    after=costs,
    rows=st.lists(rows, max_size=3).map(tuple),
    inputs=text,
    notes=st.lists(text, max_size=2).map(tuple),
)


@pytest.fixture(scope="module")
def report():
    return preview("resnet20-cifar", s={"layer1": 1, "layer3": 4, "*": 2}, keep="stem")


@given(reports)
def test_a_report_goes_to_json_and_back(found):
    assert Report.from_dict(json.loads(found.to_json())) == found


@pytest.mark.parametrize("mode", ["c-ghost", "g-ghost"])
def test_the_report_of_a_conversion_goes_to_json_and_back(mode):
    found = preview("resnet20-cifar", mode=mode)
    assert Report.from_dict(json.loads(found.to_json())) == found


def test_the_json_names_its_schema_and_version(report):
    assert report.to_dict()["schema"] == SCHEMA == "ghostify.report/1"


def keys_of(data) -> set[str]:
    if isinstance(data, dict):
        return set(data).union(*map(keys_of, data.values()))
    return set().union(*map(keys_of, data)) if isinstance(data, list) else set()


@pytest.mark.parametrize("mode", ["c-ghost", "g-ghost"])
def test_every_key_of_the_json_is_described(mode):
    page = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")
    keys = keys_of(preview("resnet20-cifar", mode=mode).to_dict())
    assert {key for key in keys if not re.search(rf"`[^`\n]*\b{key}\b[^`\n]*`", page)} == set()


def test_ratios_are_before_over_after():
    found = Report("net", "c-ghost", Cost(100, 90, 80), Cost(50, 60, 80), ()).ratios
    assert (found.params, found.macs, found.acts) == (2, 1.5, 1)


def test_a_ratio_of_what_is_unknown_or_nothing_is_unknown():
    found = Report("net", "c-ghost", Cost(100, None, 0), Cost(0, None, 0), ()).ratios
    assert (found.params, found.macs, found.acts) == (None, None, None)


def test_each_row_has_the_papers_ratios_beside_the_measured_ones(report):
    row = next(row for row in report.rows if row.name == "layer3.1.conv2")
    assert (row.s, row.d) == (4, 3)
    assert row.eq4 == speedup_ratio(64, (3, 3), 4, 3) == row.eq5
    assert row.eq5 == compression_ratio(64, (3, 3), 4, 3)
    assert row.approximation == approximate_ratio(64, 4) == 4 * 64 / (4 + 64 - 1)
    # Without bias and with n divisible by s, the exact form is what is measured.
    assert row.ratios.macs == pytest.approx(row.eq4) and row.ratios.params == pytest.approx(row.eq5)


def test_rows_and_what_else_there_is_add_up_to_the_total(report):
    before = sum(row.before.macs for row in report.rows)
    assert before == report.before.conv_macs
    saved = sum(row.saved for row in report.rows)
    assert saved == report.before.macs - report.after.macs


def test_rows_are_in_network_order_and_sorted_by_savings_when_asked(report):
    names = [row.name for row in report.rows]
    assert names[0] == "conv1" and names == sorted(names)
    saved = [row.saved for row in report.ordered("savings")]
    assert saved == sorted(saved, reverse=True)
    assert report.ordered("network") == list(report.replaced)


def test_reasons_are_counted_most_frequent_first(report):
    assert report.reasons == {"s=1 is the layer itself": 6, "not selected": 1}
    assert len(report.replaced) + len(report.kept) == len(report.rows) == 19


def test_savings_are_of_params_where_macs_are_unknown():
    row = LayerRow("a", "Conv2d", Cost(9, None), Cost(4, None))
    assert row.saved == 5


def test_an_assumed_input_is_said_and_a_given_one_is_not():
    assumed = preview("resnet20-cifar")
    assert any("assumed" in note for note in assumed.notes)
    assert preview("resnet20-cifar", input_size=(3, 32, 32)).notes == ()
