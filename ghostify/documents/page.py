"""Pages as data: sections of figures, bars, curves, tables, pictures. Templates make HTML of them.

A section names the template that draws it: a new kind is one class here and one template.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from ghostify.documents.amounts import short_amount
from ghostify.documents.document import Document, Table
from ghostify.documents.scales import Group, Scale, group_names, scale_to

Tone = Literal["ghost", "stage", "left", "worse", "plain"]
"""Colour of what became a ghost module, was rebuilt, was left, got worse; and of all else."""


@dataclass(frozen=True)
class Number:
    """A number as a person reads it, and as it is.

    Attributes:
        text: What is shown.
        exact: Its value, which the page keeps; None where it is unknown.
        label: What it is the number of.
    """

    text: str
    exact: float | None
    label: str = ""


@dataclass(frozen=True)
class Headline:
    """One of the large figures at the top.

    Attributes:
        label: What it is.
        value: The figure.
        unit: What follows it, small.
        notes: Smaller figures below.
        left: The part that is left of what was there, drawn as a bar; None for no bar.
        tone: Colour of that bar.
    """

    label: str
    value: Number
    unit: str = ""
    notes: Sequence[Number] = ()
    left: float | None = None
    tone: Tone = "ghost"


class Section:
    """Base of a page's sections: data classes.

    Attributes:
        title: Its heading; empty for none.
        text: A line below it.
    """

    template: ClassVar[str]
    title: str
    text: str


@dataclass(frozen=True)
class Headlines(Section):
    """Totals as large figures."""

    template = "headlines.html"
    items: Sequence[Headline]
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Bar:
    """What one layer has: a pale bar, and a coloured one before it.

    Attributes:
        name: Of the layer.
        before: Length of the pale bar; None for none.
        after: Length of the coloured bar; None where it is not known.
        tone: Colour.
        hover: Lines that are shown when it is pointed at.
    """

    name: str
    before: float | None
    after: float | None
    tone: Tone = "plain"
    hover: Sequence[str] = ()

    @property
    def hides_before(self) -> bool:
        """Whether the coloured bar is the longer one, so that the pale one needs a mark on it."""
        return self.before is not None and self.after is not None and self.after > self.before


@dataclass(frozen=True)
class Profile(Section):
    """Upright bars side by side, in the network's order.

    Attributes:
        bars: The bars.
        legend: What each colour means.
        shown: How a number of the scale is written.
        least: The scale goes at least so far.
        limit: Height of a dashed line; None for none.
        limit_label: What that line says.
    """

    template = "profile.html"
    title: str
    bars: Sequence[Bar]
    legend: Mapping[Tone, str]
    text: str = ""
    shown: Callable[[float], str] = short_amount
    least: float = 0.0
    limit: float | None = None
    limit_label: str = ""

    @property
    def scale(self) -> Scale:
        """Top and ticks of the scale."""
        values = [v for bar in self.bars for v in (bar.before, bar.after) if v is not None]
        return scale_to(max([*values, self.least, self.limit or 0.0]))

    @property
    def groups(self) -> list[Group]:
        """The parts of the network that the bars lie in."""
        return group_names([bar.name for bar in self.bars])

    @property
    def has_before(self) -> bool:
        """Whether there are pale bars."""
        return any(bar.before is not None for bar in self.bars)

    @property
    def has_marks(self) -> bool:
        """Whether some pale bars are hidden behind longer ones."""
        return any(bar.hides_before for bar in self.bars)


@dataclass(frozen=True)
class Lane:
    """A bar that lies, with its name and its number beside it.

    Attributes:
        name: What it is of.
        value: Its length.
        note: What follows the number, small.
        tone: Colour.
    """

    name: str
    value: Number
    note: str = ""
    tone: Tone = "plain"


@dataclass(frozen=True)
class Lanes(Section):
    """Bars below each other, for a few things that are compared.

    Attributes:
        lanes: The bars.
        least: The scale goes at least so far.
    """

    template = "lanes.html"
    title: str
    lanes: Sequence[Lane]
    text: str = ""
    least: float = 0.0

    @property
    def top(self) -> float:
        """The greatest length."""
        return max([self.least, *(lane.value.exact or 0.0 for lane in self.lanes)]) or 1.0


@dataclass(frozen=True)
class Line:
    """A line of a curve.

    Attributes:
        name: What it is.
        points: ``(x, y)``, x rising.
        tone: Colour.
    """

    name: str
    points: Sequence[tuple[float, float]]
    tone: Tone = "ghost"


@dataclass(frozen=True)
class Curve(Section):
    """Lines over steps.

    Attributes:
        lines: The lines.
        unit: What a step of x is.
        shown: How a number of the scale is written.
    """

    template = "curve.html"
    title: str
    lines: Sequence[Line]
    text: str = ""
    unit: str = "step"
    shown: Callable[[float], str] = "{:.3g}".format

    @property
    def scale(self) -> Scale:
        """Top and ticks of the scale; from 0 where that is near."""
        values = [y for line in self.lines for _, y in line.points]
        return scale_to(max(values, default=0.0), min(values, default=0.0))

    @property
    def ends(self) -> tuple[float, float]:
        """First and last x."""
        places = [x for line in self.lines for x, _ in line.points]
        return min(places, default=0.0), max(places, default=0.0)

    def path(self, line: Line) -> str:
        """A line's points between 0 and 100, y downwards, as SVG has them."""
        first, last = self.ends
        width = (last - first) or 1.0
        scale = self.scale
        places = ((100 * (x - first) / width, 100 - scale.percent(y)) for x, y in line.points)
        return " ".join(f"{x:.2f},{y:.2f}" for x, y in places)


@dataclass(frozen=True)
class Tabular(Section):
    """A table; one that is folded is closed until it is opened."""

    template = "table.html"
    table: Table
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Notes(Section):
    """Sentences."""

    template = "notes.html"
    lines: Sequence[str]
    title: str = ""
    text: str = ""


@dataclass(frozen=True)
class Picture:
    """A picture that the page holds.

    Attributes:
        title: What it shows.
        data: Bytes of the file.
        media_type: Of the file.
    """

    title: str
    data: bytes
    media_type: str = "image/png"

    @property
    def uri(self) -> str:
        """All of it as an address."""
        return f"data:{self.media_type};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Pictures(Section):
    """Pictures below each other."""

    template = "pictures.html"
    title: str
    pictures: Sequence[Picture]
    text: str = ""


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes:
        title: Its heading.
        kind: What kind of page it is, above the heading.
        lead: A line below the heading.
        sections: What it has.
    """

    title: str
    kind: str = ""
    lead: str = ""
    sections: Sequence[Section] = ()


def page_of(document: Document) -> Page:
    """A page with the tables and notes of a document."""
    return Page(document.title or "ghostify", sections=_sections_of(document))


def _sections_of(document: Document) -> list[Section]:
    totals = [document.totals] if document.totals is not None else []
    sections: list[Section] = [
        Tabular(table, table.title) for table in (*totals, *document.tables) if table.rows
    ]
    for part in document.parts:
        inside = _sections_of(part)
        sections += [Notes((), part.title), *inside] if part.title else inside
    lines = [*document.footnotes, *([document.summary] if document.summary else [])]
    return [*sections, *([Notes(lines, "Notes")] if lines else [])]
