"""The page of a report: the figures of its JSON, and what became of each layer."""

from __future__ import annotations

from dataclasses import replace

import pytest

import ghostify
from ghostify.api import preview
from ghostify.documents.page import Headlines, Notes, Page, Profile, Section, Tabular
from ghostify.reports import Report
from ghostify.saving.history import Start


@pytest.fixture(scope="module")
def report() -> Report:
    return preview("resnet20-cifar", mode="c-ghost", s=2, keep="layer1.0")


def only(page: Page, kind: type[Section], title: str = "") -> Section:
    (found,) = (s for s in page.sections if isinstance(s, kind) and title in s.title)
    return found


def test_the_totals_are_those_of_the_json(report: Report) -> None:
    headlines = only(report.page(), Headlines)
    assert isinstance(headlines, Headlines)
    said = report.to_dict()
    assert {
        item.label: (item.value.exact, *(note.exact for note in item.notes))
        for item in headlines.items
    } == {
        label: (said["ratios"][key], said["before"][key], said["after"][key])
        for label, key in (("MACs", "macs"), ("params", "params"), ("activations", "acts"))
    }


def test_the_bars_are_the_layers_in_network_order_by_what_became_of_them(report: Report) -> None:
    profile = only(report.page(), Profile, "MACs")
    assert isinstance(profile, Profile)
    assert [bar.name for bar in profile.bars] == [row.name for row in report.rows]
    assert [(bar.before, bar.after) for bar in profile.bars] == [
        (row.before.macs, row.after.macs) for row in report.rows
    ]
    tones = {bar.name: bar.tone for bar in profile.bars}
    assert tones["layer1.0.conv1"] == "left" and tones["layer1.1.conv1"] == "ghost"
    assert set(profile.legend) == {"left", "ghost"}


def test_pointing_at_a_bar_shows_the_equations_beside_the_measured_ratios(report: Report) -> None:
    profile = only(report.page(), Profile, "MACs")
    assert isinstance(profile, Profile)
    hover = {bar.name: " ".join(bar.hover) for bar in profile.bars}
    assert (
        "1.88x fewer" in hover["layer1.1.conv1"]
        and "Eq. 4 promises 1.88" in hover["layer1.1.conv1"]
    )
    assert "left: not selected" in hover["layer1.0.conv1"]


def test_what_was_left_stands_with_the_reason(report: Report) -> None:
    table = only(report.page(), Tabular, "left")
    assert isinstance(table, Tabular)
    ((reason, number, _, names),) = table.table.cells
    assert reason == report.kept[0].reason and number == "2"
    assert names == "layer1.0.conv1, layer1.0.conv2"


def test_rebuilt_stages_are_bars_with_their_equations() -> None:
    page = preview("resnet20-cifar", mode="g-ghost").page()
    profile = only(page, Profile, "stage: MACs")
    assert isinstance(profile, Profile)
    assert [bar.name for bar in profile.bars] == ["layer1", "layer2", "layer3"]
    assert all("Eq. 13 promises" in " ".join(bar.hover) for bar in profile.bars)


def test_the_errors_of_the_fit_are_those_of_held_out_images(report: Report) -> None:
    start = Start({"conv1": 0.1, "layer2.0.conv1": None}, ("fitted",), {"conv1": 0.7})
    page = start.annotate(report).page()
    profile = only(page, Profile, "Errors")
    assert isinstance(profile, Profile)
    assert [(bar.name, bar.after, bar.tone) for bar in profile.bars] == [("conv1", 0.7, "worse")]
    notes = only(page, Notes)
    assert isinstance(notes, Notes) and "fitted" in notes.lines


def test_costs_that_are_unknown_are_said_to_be(report: Report) -> None:
    unknown = replace(report, before=replace(report.before, macs=None))
    assert "?" in unknown.to_html()


def test_a_network_that_was_not_converted_has_its_costs() -> None:
    page = ghostify.report("resnet20-cifar").page()
    assert page.kind == "What a network costs"
    profile = only(page, Profile, "MACs")
    assert isinstance(profile, Profile) and not profile.has_before


def test_the_page_of_stages_has_what_the_equations_leave() -> None:
    table = ghostify.find_stages("resnet20-cifar")
    profile = only(table.page(), Profile, "MACs")
    assert isinstance(profile, Profile)
    stage, bar = table.stages[0], profile.bars[0]
    assert bar.before == stage.cost.macs and stage.eq13 is not None
    assert bar.after == pytest.approx(bar.before / stage.eq13)


def test_a_network_without_stages_has_a_page_that_says_why() -> None:
    assert "no stage" in ghostify.find_stages("alexnet", input_size=(3, 224, 224)).to_html()
