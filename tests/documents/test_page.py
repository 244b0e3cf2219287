"""Pages: what is in them, that nothing of it is markup, and that they ask no network."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from ghostify.documents import Document, Table, plain_columns
from ghostify.documents.html_page import render_page
from ghostify.documents.page import (
    Bar,
    Curve,
    Headline,
    Headlines,
    Lane,
    Lanes,
    Line,
    Notes,
    Number,
    Page,
    Picture,
    Pictures,
    Profile,
    Section,
    Tabular,
    page_of,
)
from ghostify.documents.scales import group_names, scale_to

EVIL = "</svg></title><script>alert('1')</script>\"'><img src=x onerror=alert(2)>&lt;"
TABLE = Table(plain_columns(EVIL, "b"), [(EVIL, "1")], title=EVIL)


def every_section(text: str) -> list[Section]:
    bars = [Bar(text, 2.0, 1.0, "ghost", [text, text]), Bar(f"{text}.a", 1.0, 3.0, "left")]
    return [
        Headlines([Headline(text, Number(text, 1.5), text, [Number(text, None, text)], 0.5)]),
        Profile(text, bars, {"ghost": text}, text, limit=1.0, limit_label=text),
        Lanes(text, [Lane(text, Number(text, 3.0), text)], text),
        Curve(text, [Line(text, [(1, 2.0), (2, 1.0)]), Line("b", [(1, 2.0)])], text, unit=text),
        Tabular(TABLE, text, text),
        Tabular(Table(TABLE.columns, TABLE.rows, folded=text), text),
        Notes([text, f"  {text}"], text),
        Pictures(text, [Picture(text, b"bytes")], text),
    ]


class Tags(HTMLParser):
    """The tags of a page, and the text outside of its style."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_every_kind_of_section_is_drawn_and_what_it_holds_is_no_markup() -> None:
    evil, plain = (
        Tags(render_page(Page(text, text, text, every_section(text)))).found
        for text in (EVIL, "plain")
    )
    assert [tag for tag, _ in evil] == [tag for tag, _ in plain]
    assert all(not name.startswith("on") for _, attrs in evil for name in attrs)
    assert not any(tag == "script" for tag, _ in evil)


def test_a_page_asks_no_network_for_anything() -> None:
    page = render_page(Page("a", sections=every_section("plain")))
    places = [
        value
        for _, attrs in Tags(page).found
        for name, value in attrs.items()
        if name in {"src", "href", "xlink:href"}
    ]
    assert places and all(str(place).startswith("data:") for place in places)
    assert not re.search(r"url\(|@import|https?://", page)
    assert "default-src 'none'" in page


def test_a_number_is_kept_as_it_is_beside_what_is_shown() -> None:
    headline = Headline("MACs", Number("1.98x", 1.98154), notes=[Number("3.66G", 3663761408)])
    page = render_page(Page("a", sections=[Headlines([headline])]))
    assert '<data value="1.98154">1.98x</data>' in page
    assert '<data value="3663761408">3.66G</data>' in page


def test_a_document_makes_a_page_of_its_tables_and_notes() -> None:
    totals = Table(plain_columns("", "all"), [("sum", "5")])
    inner = Document("inside", [Table(plain_columns("x"), [("part",)])])
    page = page_of(Document("title", [TABLE], totals, [inner], ["note"], "summary"))
    shown = render_page(page)
    assert page.title == "title"
    shown = shown[shown.index("</head>") :]
    places = [shown.index(f">{text}<") for text in ("sum", "inside", "part", "note", "summary")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("highest", "lowest"),
    [(0, 0), (1, 0), (1e-9, 0), (7e12, 0), (99.2, 98.9), (5, 5), (-1, -3), (float("nan"), 0)],
)
def test_a_scale_holds_its_values_and_some_round_numbers(highest: float, lowest: float) -> None:
    scale = scale_to(highest, lowest)
    assert 2 <= len(scale.ticks) <= 6
    if highest == highest:  # not NaN
        assert scale.bottom <= lowest <= highest <= scale.top
    assert all(scale.bottom <= tick <= scale.top for tick in scale.ticks)


def test_groups_are_parts_of_the_network_and_cover_it() -> None:
    names = ["net.conv1", *(f"net.layer1.{i}.conv" for i in range(3)), "net.fc"]
    assert [(g.name, g.count) for g in group_names(names)] == [
        ("net.conv1", 1),
        ("net.layer1", 3),
        ("net.fc", 1),
    ]
    assert [g.name for g in group_names(["0", "2", "4"])] == ["0", "2", "4"]
    assert group_names([str(i) for i in range(100)]) == []
    assert group_names([]) == []
