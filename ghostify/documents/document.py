"""Documents as data: a title, tables, notes. How they look is the renderer's subject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any


@dataclass(frozen=True)
class Column:
    """A column of a table. The first one of a table has names, at the left; others have figures.

    Attributes:
        title: Its title.
        cell: Text of a row in this column.
        narrow: Whether a table in a narrow terminal has it.
        tiny: Whether one in a tiny terminal has it.
        wraps: Whether a cell that is too wide may break between words.
    """

    title: str
    cell: Callable[[Any], str]
    narrow: bool = True
    tiny: bool = True
    wraps: bool = False


@dataclass(frozen=True)
class Table:
    """A table. One without rows is not shown.

    Attributes:
        columns: Its columns.
        rows: What the columns make cells of, one item for each row.
        title: Its title; empty for none.
        folded: Title of the fold in which HTML keeps it closed; empty to keep it open.
        longest: Rows that a terminal shows; None for all.
        rest: What the other rows come to: a line below the table in a terminal.
    """

    columns: Sequence[Column]
    rows: Sequence[Any]
    title: str = ""
    folded: str = ""
    longest: int | None = None
    rest: str = ""

    @property
    def titles(self) -> list[str]:
        """Titles of the columns."""
        return [column.title for column in self.columns]

    @property
    def cells(self) -> list[list[str]]:
        """The text of each row in each column."""
        return [[column.cell(row) for column in self.columns] for row in self.rows]


def plain_columns(*titles: str) -> list[Column]:
    """Columns for rows that are lists of texts."""
    return [Column(title, itemgetter(index)) for index, title in enumerate(titles)]


@dataclass(frozen=True)
class Document:
    """What a result prints.

    Attributes:
        title: Its title; empty for none.
        tables: Its tables.
        totals: A table of what all comes to: last in a terminal, first in Markdown and HTML.
        parts: Documents within it, below its own tables.
        footnotes: How its figures are to be read; a terminal keeps spaces before the text.
        summary: Its last line.
        width: Columns that its plain text takes where nothing else is asked for.
    """

    title: str = ""
    tables: Sequence[Table] = ()
    totals: Table | None = None
    parts: Sequence[Document] = ()
    footnotes: Sequence[str] = ()
    summary: str = ""
    width: int = 110
