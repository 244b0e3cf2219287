"""The paper's tables: the digits, the marks, the reasons, the figures counted outside."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from ghostify.errors import SettingsError
from ghostify.paper import TABLES, Figure, reproduce

pytest.importorskip("timm")


@pytest.fixture(scope="module")
def everything():
    return reproduce()


def _find(found, number, label):
    return next(o for o in found.outcomes if o.table.number == number and o.row.label == label)


@pytest.mark.parametrize(
    ("digits", "unit", "count", "expected"),
    [
        ("313", "M", 313_196_544, "equal"),
        ("7.3", "M", 7_358_820, "cut off"),
        ("226", "M", 227_003_256, "other"),
        ("4.1", "B", 4_089_184_256, "equal"),
        ("0.85", "M", 853_018, "equal"),
        ("13.0", "M", 12_929_512, "other"),
        ("15", "M", 14_500_000, "equal"),
        ("15.0", "M", 15_049_999, "equal"),
        ("15.0", "M", 15_050_000, "cut off"),
    ],
)
def test_digits_are_compared_as_printed(digits, unit, count, expected):
    assert Figure(digits, unit).match(count) == expected


# params, MACs in millions, counted outside this project
@pytest.mark.parametrize(
    ("number", "label", "params", "macs"),
    [
        (4, "VGG16", 14_986_698, 313.20),
        (4, "d=1", 7_633_578, 156.74),
        (4, "d=3", 7_650_474, 157.84),
        (4, "d=5", 7_684_266, 160.05),
        (4, "d=7", 7_734_954, 163.37),
        (5, "s=3", 5_218_440, 106.97),
        (5, "s=4", 3_982_362, 80.17),
        (5, "s=5", 3_269_625, 65.40),
        (6, "ResNet56", 853_018, 125.49),
        (6, "C-Ghost (s=2) [d=1]", 429_882, 63.01),
        (7, "ResNet50", 25_557_032, 4089.2),
        (7, "C-Ghost (s=2)", 13_953_512, 2151.0),
        (7, "C-Ghost (s=4)", 8_151_752, 1181.9),
        (8, "C-GhostNet 0.5x", 2_587_292, 42.33),
        (17, "RegNetX-3.2GF", 15_296_552, 3176.6),
        (17, "G-Ghost w/ mix", 10_511_000, 1801.7),
        (18, "GhostX-RegNetX-16GF", 32_381_704, 8997.4),
    ],
)
def test_counts_are_those_of_the_structure_that_gives_the_papers_figures(
    everything, number, label, params, macs
):
    outcome = _find(everything, number, label)
    decimals = 2 if macs < 1000 else 1
    assert outcome.count("params") == params
    assert round(outcome.count("macs") / 1e6, decimals) == macs


def test_c_ghost_and_g_ghost_rows_agree_but_for_the_known_ones(everything):
    others = {
        (o.table.number, o.row.label)
        for o in everything.outcomes
        if o.row.settings is not None and not o.equal
    }
    assert others == {
        (6, "C-Ghost (s=2)"),
        (7, "C-Ghost (s=2)"),
        (7, "C-Ghost (s=2) [fc converted too]"),
        (7, "C-Ghost (s=4)"),
        (7, "C-Ghost (s=4) [fc converted too]"),
        (11, "G-Ghost w/ mix"),
        (18, "GhostX-RegNetX-8.0GF"),
    }


def test_a_reason_stands_where_a_figure_is_another_and_nowhere_else(everything):
    for outcome in everything.outcomes:
        matches = {outcome.match(name) for name in outcome.table.figures(outcome.row)}
        assert bool(outcome.remark) == (not outcome.equal), outcome.row.label
        if "other" in matches:
            assert outcome.row.reason, outcome.row.label
        if outcome.equal:
            assert not outcome.row.reason, outcome.row.label


def test_the_mixs_pooling_makes_up_for_table_11s_last_digit(everything):
    stages = [(16, 32), (32, 16), (64, 8)]
    pooled = sum(7 * channels // 2 * size**2 for channels, size in stages)
    outcome = _find(everything, 11, "G-Ghost w/ mix")
    assert Figure("53.8", "M").match(outcome.count("macs") + pooled) == "equal"


def test_the_equations_ratio_is_near_the_measured_one_for_c_ghost(everything):
    for outcome in everything.outcomes:
        if outcome.table.number in (4, 5):
            if outcome.row.settings is not None:
                assert outcome.predicted == pytest.approx(outcome.measured, rel=0.02)
            else:
                assert outcome.predicted is None


def test_eq_13_promises_more_than_stages_with_a_full_last_block_save(everything):
    for outcome in everything.outcomes:
        if outcome.table.number > 10 and outcome.row.settings is not None:
            assert outcome.predicted > outcome.measured


def test_markdown_has_every_row(everything):
    text = everything.to_markdown()
    for table in TABLES:
        assert f"## Table {table.number}." in text
        assert all(f"| {row.label} |" in text for row in table.rows)


def test_json_has_the_papers_digits_and_the_counts(everything):
    rows = json.loads(everything.to_json())["rows"]
    row = next(r for r in rows if r["table"] == 4 and r["row"] == "d=3")
    assert row["figures"]["macs"] == {"paper": "158 M", "counted": 157_842_432, "match": "equal"}


def test_the_page_of_the_docs_is_what_the_command_writes(everything):
    page = Path(__file__).parents[2] / "docs" / "paper.md"
    assert page.read_text() == everything.to_markdown()


def test_a_table_that_is_not_about_costs_is_refused():
    with pytest.raises(SettingsError, match=r"Table 9 .* 4, 5, 6"):
        reproduce([9])


def test_the_command_prints_a_table():
    run = subprocess.run(
        ["ghostify", "reproduce", "--table", "4"], capture_output=True, text=True, check=True
    )
    assert re.search(r"d=3 +7\.7 +7\.650 = +158 +157\.84 =", run.stdout)
    assert "Table 5" not in run.stdout
