"""Tables for a terminal, for Markdown and for HTML, from columns that say how a row shows."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

NAME_WIDTH = 22
"""Columns that a name gets at the least, if it has as many; what is longer is folded."""

NARROW = 104
"""Below this many columns a terminal gets tables without the columns they can do without."""


TINY = 76
"""Below this many, names and what was saved are all there is room for."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        title: Its title.
        cell: Its text for a row.
        narrow: Whether a narrow table has it.
        tiny: Whether a tiny one has it.
    """

    title: str
    cell: Callable[[Any], str]
    narrow: bool = True
    tiny: bool = True

    def fits(self, width: int) -> bool:
        """Whether the table of a terminal that is ``width`` characters wide has the column."""
        return width >= NARROW or (self.narrow and (width >= TINY or self.tiny))


def amount(value: int | None) -> str:
    """A count for a person, three digits: ``25.6M``; ``?`` where it is unknown.

    Example:
        >>> amount(25_557_032), amount(115_605_504), amount(999), amount(None)
        ('25.6M', '116M', '999', '?')
    """
    if value is None:
        return "?"
    for size, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if value >= size:
            scaled = value / size
            return f"{scaled:.{2 if scaled < 10 else 1 if scaled < 100 else 0}f}{unit}"
    return str(value)


def times(value: float | None) -> str:
    """A ratio for a person: ``1.97``; ``?`` where it is unknown."""
    return "?" if value is None else f"{value:.2f}"


def counted(number: int, what: str) -> str:
    """A number of things for a person: ``1 stage``, ``2 stages``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def terminal_table(columns: Sequence[Column], rows: Iterable[Any]) -> Table:
    """Rows as a table that `rich` prints."""
    table = Table(box=None, pad_edge=False)
    shown = cells(columns, rows)
    for index, column in enumerate(columns):
        longest = max((len(row[0]) for row in shown), default=0)
        table.add_column(
            column.title,
            justify="right" if index else "left",
            no_wrap=bool(index),
            overflow="fold",
            min_width=None if index else min(longest, NAME_WIDTH),
        )
    for row in shown:
        table.add_row(*map(Text, row))
    return table


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    """The lines of a Markdown table."""
    titles = list(header)
    align = "|".join("---" if index == 0 else "---:" for index in range(len(titles)))
    lines = [f"| {' | '.join(titles)} |", f"|{align}|"]
    for row in rows:
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def html_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """An HTML table without style."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def cells(columns: Iterable[Column], rows: Iterable[Any]) -> list[list[str]]:
    """What each column says of each row."""
    shown = list(columns)
    return [[column.cell(row) for column in shown] for row in rows]
