"""The renderer: one document in a terminal, in Markdown and in HTML."""

from __future__ import annotations

import io
from dataclasses import replace
from operator import itemgetter

import pytest
from rich.console import Console

from ghostify.documents import Column, Document, Printable, Table
from ghostify.documents.render import NARROW, TINY, to_html, to_markdown, to_text

COLUMNS = (
    Column("name", itemgetter(0)),
    Column("wide", itemgetter(1), narrow=False),
    Column("middle", itemgetter(1), tiny=False),
    Column("all", itemgetter(1)),
)
ROWS = (("a", "1"), ("b", "22"), ("c", "3"))
TOTALS = Table((Column("", itemgetter(0)), Column("sum", itemgetter(1))), [("all of it", "26")])
DOCUMENT = Document("title", [Table(COLUMNS, ROWS)], TOTALS, footnotes=["first", "  second"])


def lines(document: Document, width: int | None = None) -> list[str]:
    return [line.rstrip() for line in to_text(document, width).splitlines()]


def test_a_terminal_has_the_tables_then_the_totals_then_the_footnotes():
    assert lines(DOCUMENT) == [
        "title",
        "name  wide  middle  all",
        "a        1       1    1",
        "b       22      22   22",
        "c        3       3    3",
        "",
        "           sum",
        "all of it   26",
        "first",
        "  second",
    ]


def test_markdown_has_the_totals_first_and_footnotes_as_a_list():
    assert to_markdown(DOCUMENT) == (
        "## title\n\n"
        "|  | sum |\n|---|---:|\n| all of it | 26 |\n\n"
        "| name | wide | middle | all |\n|---|---:|---:|---:|\n"
        "| a | 1 | 1 | 1 |\n| b | 22 | 22 | 22 |\n| c | 3 | 3 | 3 |\n\n"
        "- first\n- second\n"
    )


def test_html_has_what_markdown_has():
    assert to_html(replace(DOCUMENT, tables=[], summary="a < b")) == (
        "<h4>title</h4>\n"
        "<table><thead><tr><th></th><th>sum</th></tr></thead>"
        "<tbody><tr><td>all of it</td><td>26</td></tr></tbody></table>\n"
        "<ul><li>first</li><li>second</li></ul>\n"
        "<p>a &lt; b</p>"
    )


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (NARROW, ["name", "wide", "middle", "all"]),
        (NARROW - 1, ["name", "middle", "all"]),
        (TINY, ["name", "middle", "all"]),
        (TINY - 1, ["name", "all"]),
    ],
)
def test_a_narrow_terminal_gets_fewer_columns(width, shown):
    assert lines(DOCUMENT, width)[1].split() == shown


def test_a_table_that_is_cut_in_a_terminal_is_whole_in_markdown_and_html():
    cut = Document(tables=[Table(COLUMNS, ROWS, longest=1, rest="2 more", folded="3 rows")])
    assert lines(cut)[1:] == ["a        1       1    1", "... and 2 more"]
    assert "| c |" in to_markdown(cut) and "more" not in to_markdown(cut)
    assert to_html(cut).startswith("<details><summary>3 rows</summary><table>")
    assert "<td>c</td>" in to_html(cut)


@pytest.mark.parametrize("render", [to_text, to_markdown, to_html])
def test_a_table_without_rows_is_left_out(render):
    empty = replace(DOCUMENT, tables=[Table(COLUMNS, (), title="nothing")])
    assert render(empty) == render(replace(DOCUMENT, tables=[]))


def test_titles_of_tables_and_parts_are_shown_in_every_form():
    part = Document("inner", [Table(COLUMNS, ROWS, title="caption")])
    whole = Document("outer", parts=[part, part], summary="the end")
    text = lines(whole)
    assert text[:2] == ["outer", "inner"] and text[2].strip() == "caption"
    assert text[-3:] == ["", "", "the end"]
    markdown = to_markdown(whole)
    assert markdown.startswith("## outer\n\n## inner\n\n**caption**\n\n| name |")
    assert markdown.endswith("\n\nthe end\n") and "\n\n\n" not in markdown
    assert to_html(whole).count("<caption>caption</caption>") == 2


class Result(Printable):
    def document(self) -> Document:
        return replace(DOCUMENT, width=60)


def test_a_result_prints_as_its_document_at_its_own_width():
    stream = io.StringIO()
    Console(file=stream, width=60, color_system=None).print(Result())
    assert str(Result()) == stream.getvalue() == to_text(DOCUMENT, 60)
    assert Result().to_markdown() == to_markdown(DOCUMENT)
    assert Result()._repr_html_() == to_html(DOCUMENT)


def test_the_text_in_a_notebook_is_the_text(monkeypatch):
    document = Document(title="a title")
    outside = to_text(document)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    assert to_text(document) == outside != ""
