"""The document of a report."""

from __future__ import annotations

import io
from html.parser import HTMLParser

import pytest
from rich.console import Console

import ghostify
from ghostify.api import preview
from ghostify.cost import Cost
from ghostify.documents import amount
from ghostify.documents.render import TerminalDocument, to_text
from ghostify.reports import LayerRow, Report


@pytest.fixture(scope="module")
def report():
    return preview("resnet20-cifar", s=2, keep="layer1")


def lines(report: Report, width: int = 120, **options) -> list[str]:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    console.print(TerminalDocument(report.document(**options)))
    return stream.getvalue().splitlines()


def test_the_table_has_largest_savings_first_or_network_order(report):
    by_savings = [line.split()[0] for line in lines(report) if line.startswith(("layer", "conv"))]
    in_order = [
        line.split()[0]
        for line in lines(report, order="network")
        if line.startswith(("layer", "conv"))
    ]
    assert by_savings[1] == "layer3.0.conv2" and in_order[1] == "conv1"
    assert sorted(by_savings) == sorted(in_order)


def test_the_rest_of_a_long_table_is_folded_with_what_it_saves(report):
    shown = lines(report, longest=5)
    rest = report.ordered()[5:]
    saved = amount(sum(row.saved for row in rest))
    assert f"... and {len(rest)} more layers, which save {saved} MACs" in shown


def test_what_was_left_is_folded_by_reason(report):
    shown = lines(report)
    assert "13 layers replaced, 6 left as they are" in shown
    assert "  6 x not selected" in shown


@pytest.mark.parametrize("width", [30, 40, 60, 75, 80, 104, 200])
@pytest.mark.parametrize("mode", ["c-ghost", "g-ghost"])
def test_a_table_fits_any_width_with_whole_names_and_figures(width, mode):
    found = preview("resnet20-cifar", mode=mode, input_size=(3, 32, 32))
    shown = lines(found, width)
    assert max(map(len, shown)) <= width
    table = shown[1 : shown.index("")]
    assert all("…" not in line for line in table)
    name = found.ordered()[0].name if mode == "c-ghost" else found.rebuilt[0].name
    if width >= 40:
        assert any(line.startswith(f"{name} ") for line in table)


def test_a_wide_table_has_what_a_narrow_one_leaves_out(report):
    wide, narrow, tiny = (lines(report, width)[1] for width in (120, 90, 50))
    assert "shape" in wide and "shape" not in narrow
    assert "Eq. 4, 5" in narrow and "Eq. 4, 5" not in tiny
    assert all("x params" in title and "x MACs" in title for title in (wide, narrow, tiny))


def test_text_has_no_colours(report):
    text = to_text(report.document())
    assert "\x1b" not in text and str(report) == text


def test_rich_prints_a_report_as_its_table(report):
    stream = io.StringIO()
    Console(file=stream, width=110, color_system=None).print(report)
    assert stream.getvalue() == to_text(report.document(), 110)


def test_unknown_costs_are_shown_as_such():
    unknown = Report("net", "c-ghost", Cost(10, None, None), Cost(5, None, None), ())
    assert any(line.split() == ["MACs", "?", "?", "?"] for line in lines(unknown))


def test_a_network_that_was_not_converted_gets_one_column_of_costs():
    shown = lines(ghostify.report("resnet20-cifar"))
    assert "replaced" not in "\n".join(shown)
    assert ["params", "270k"] in [line.split() for line in shown]


# Markdown


def test_markdown_has_totals_every_layer_and_the_notes(report):
    text = report.to_markdown()
    assert text.startswith("## resnet20-cifar, c-ghost\n\n| ")
    assert text.count("\n| layer3.") == 6 and text.count("\n| layer1.") == 0
    assert "- 6 x not selected\n" in text and text.endswith("\n") and not text.endswith("\n\n")


def test_markdown_may_be_in_network_order(report):
    text = report.to_markdown("network")
    assert (
        text.index("| conv1 ") < text.index("| layer2.0.conv1 ") < text.index("| layer3.0.conv1 ")
    )


def test_every_row_of_a_markdown_table_has_as_many_cells_as_its_title():
    name = "a|b"
    row = LayerRow(name, "Conv2d", Cost(4, 4), Cost(2, 2), "3x3 | 4", 2, 3, 2.0, 2.0, 2.0)
    text = Report("net", "c-ghost", Cost(4, 4), Cost(2, 2), (row,)).to_markdown()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 2
    for table in tables:
        assert len({line.replace("\\|", "").count("|") for line in table if "--" not in line}) == 1
    assert "| a\\|b |" in text


# HTML


class Reader(HTMLParser):
    """Tags and text of a fragment; that every tag is closed in its turn."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.feed(fragment)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert attrs == []
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_html_is_well_formed_and_brings_no_script_or_style(report):
    reader = Reader(report._repr_html_())
    assert set(reader.tags) <= {
        "h4", "table", "thead", "tbody", "tr", "th", "td", "details", "summary", "ul", "li",
    }  # fmt: skip
    assert reader.tags.count("table") == 2
    assert "13 layers" in reader.texts and "layer3.0.conv2" in reader.texts


def test_html_escapes_what_comes_from_the_network():
    evil = "<script>alert(1)</script>&"
    row = LayerRow(evil, evil, Cost(4, 4), Cost(2, 2), evil, 2, 3, 2.0, 2.0, 2.0)
    left = LayerRow("b", "Conv2d", Cost(4, 4), Cost(4, 4), reason=evil)
    found = Report(evil, "c-ghost", Cost(4, 4), Cost(2, 2), (row, left), evil, (evil,))
    reader = Reader(found._repr_html_())
    assert "script" not in reader.tags
    assert reader.texts.count(evil) >= 3  # the layer, its shape, the note


def test_a_terminal_shows_square_brackets_as_they_are():
    row = LayerRow("a[red]b", "Conv2d", Cost(4, 4), Cost(2, 2), "", 2, 3, 2.0, 2.0, 2.0)
    found = Report("net[/]", "c-ghost", Cost(4, 4), Cost(2, 2), (row,), notes=("see [link]",))
    text = "\n".join(lines(found))
    assert "net[/]" in text and "a[red]b" in text and "see [link]" in text
