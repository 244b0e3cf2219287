"""Documents as text for a terminal, as Markdown and as HTML."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rich import table as rich_table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from ghostify.documents.document import Column, Document, Table

NAME_WIDTH = 22
"""Columns that a name gets at the least, if it has as many; what is longer is folded."""

NARROW = 104
"""Below this many columns a terminal gets tables without the columns they can do without."""

TINY = 76
"""Below this many, names and what was saved are all there is room for."""


@dataclass(frozen=True)
class TerminalDocument:
    """A document as something `rich` prints; tables have the columns that the width allows."""

    document: Document

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield from _blocks(self.document, options.max_width)


def to_text(document: Document, width: int | None = None) -> str:
    """A document as plain text, without colours."""
    stream = io.StringIO()
    # In a notebook rich would show the text instead of writing it into the stream.
    console = Console(
        file=stream, width=width or document.width, color_system=None, force_jupyter=False
    )
    console.print(TerminalDocument(document))
    return stream.getvalue()


def to_markdown(document: Document) -> str:
    """A document as Markdown: all rows and columns of its tables."""
    return "\n\n".join(_markdown(document)) + "\n"


def to_html(document: Document) -> str:
    """A document as an HTML fragment with no style or script from outside."""
    blocks = [f"<h4>{html.escape(document.title)}</h4>"] if document.title else []
    blocks += [_html_table(table) for table in _totals_first(document)]
    blocks += [to_html(part) for part in document.parts]
    if document.footnotes:
        notes = (f"<li>{html.escape(line.strip())}</li>" for line in document.footnotes)
        blocks.append(f"<ul>{''.join(notes)}</ul>")
    if document.summary:
        blocks.append(f"<p>{html.escape(document.summary)}</p>")
    return "\n".join(blocks)


def _blocks(document: Document, width: int) -> Iterator[Text | rich_table.Table]:
    if document.title:
        yield Text(document.title, style="bold")
    for table in document.tables:
        if not table.rows:
            continue
        yield _terminal_table(table, width)
        if table.rest:
            yield Text(f"... and {table.rest}", style="dim")
        if table.title:
            yield Text()
    if document.totals is not None:
        yield Text()
        yield _terminal_table(document.totals, width, are_totals=True)
    for part in document.parts:
        yield from _blocks(part, width)
        yield Text()
    yield from (Text(line, style="dim") for line in document.footnotes)
    if document.summary:
        yield Text(document.summary)


def _terminal_table(table: Table, width: int, are_totals: bool = False) -> rich_table.Table:
    columns = [column for column in table.columns if _fits(column, width)]
    cells = replace(table, columns=columns, rows=table.rows[: table.longest]).cells
    shown = rich_table.Table(
        box=None, pad_edge=False, title=table.title or None, title_justify="left"
    )
    for index, column in enumerate(columns):
        longest = max(len(row[0]) for row in cells)
        shown.add_column(
            column.title,
            justify="right" if index else "left",
            no_wrap=bool(index) and not (column.wraps or are_totals),
            overflow="ellipsis" if are_totals else "fold",
            min_width=None if index or are_totals else min(longest, NAME_WIDTH),
            style="bold" if are_totals else "",
        )
    for row in cells:
        shown.add_row(*map(Text, row))
    return shown


def _fits(column: Column, width: int) -> bool:
    """Whether a table in a terminal of this width has the column."""
    return width >= NARROW or (column.narrow and (width >= TINY or column.tiny))


def _totals_first(document: Document) -> list[Table]:
    """The tables of a page that is read from its top; those without rows are left out."""
    totals = [document.totals] if document.totals is not None else []
    return [table for table in (*totals, *document.tables) if table.rows]


def _markdown(document: Document) -> Iterator[str]:
    """Paragraphs of Markdown."""
    if document.title:
        yield f"## {document.title}"
    for table in _totals_first(document):
        if table.title:
            yield f"**{table.title}**"
        yield "\n".join(_markdown_table(table))
    for part in document.parts:
        yield from _markdown(part)
    if document.footnotes:
        yield "\n".join(f"- {line.strip()}" for line in document.footnotes)
    if document.summary:
        yield document.summary


def _markdown_table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(table.titles)} |"
    yield f"|{'|'.join('---:' if index else '---' for index in range(len(table.columns)))}|"
    for row in table.cells:
        cells = [cell.replace("|", "\\|") for cell in row]
        yield f"| {' | '.join(cells)} |"


def _html_table(table: Table) -> str:
    caption = f"<caption>{html.escape(table.title)}</caption>" if table.title else ""
    body = "".join(f"<tr>{_html_cells('td', row)}</tr>" for row in table.cells)
    head = f"<thead><tr>{_html_cells('th', table.titles)}</tr></thead>"
    shown = f"<table>{caption}{head}<tbody>{body}</tbody></table>"
    if not table.folded:
        return shown
    return f"<details><summary>{html.escape(table.folded)}</summary>{shown}</details>"


def _html_cells(tag: str, cells: Iterable[str]) -> str:
    return "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
