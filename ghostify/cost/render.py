"""How a report looks: in a terminal, a notebook, a Markdown file."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ghostify.cost.report import Order, Report, Row

LONGEST = 20
"""Layers that a table in a terminal shows before it folds the rest into a line."""

NARROW = 104
"""Below this many columns a terminal gets the table without the columns it can do without."""


@dataclass(frozen=True)
class Column:
    """A column of the layer table: its title, its cells, whether a narrow table has it."""

    title: str
    cell: Callable[[Row], str]
    narrow: bool = True


# Eq. 4 and Eq. 5 are equal in value (as the paper notes), so that one column serves both.
LAYER_COLUMNS = (
    Column("layer", lambda row: row.name),
    Column("shape", lambda row: row.shape, narrow=False),
    Column("s", lambda row: str(row.s)),
    Column("d", lambda row: str(row.d)),
    Column(
        "params", lambda row: f"{amount(row.before.params)} > {amount(row.after.params)}", False
    ),
    Column("MACs", lambda row: f"{amount(row.before.macs)} > {amount(row.after.macs)}"),
    Column("x params", lambda row: times(row.ratios.params)),
    Column("x MACs", lambda row: times(row.ratios.macs)),
    Column("Eq. 4, 5", lambda row: times(row.eq4)),
    Column("approx.", lambda row: times(row.approximation)),
)

ERROR_COLUMN = Column("error", lambda row: times(row.error))
"""How far a layer's ghosts are from the original after a warm start."""

COST_COLUMNS = (
    Column("layer", lambda row: row.name),
    Column("kind", lambda row: row.kind),
    Column("output", lambda row: row.shape, narrow=False),
    Column("params", lambda row: amount(row.before.params)),
    Column("MACs", lambda row: amount(row.before.macs)),
    Column("activations", lambda row: amount(row.before.acts)),
)


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


@dataclass(frozen=True)
class TerminalReport:
    """A report as something `rich` prints; the table has what the terminal's width allows.

    Attributes:
        report: The report.
        order: Order of the layers.
        longest: Layers to show; None for all.
    """

    report: Report
    order: Order = "savings"
    longest: int | None = LONGEST

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        report = self.report
        yield Text(_title(report), style="bold")
        rows = _rows(report, self.order)
        if rows:
            narrow = options.max_width < NARROW
            columns = [c for c in _columns(report) if c.narrow or not narrow]
            yield _layer_table(columns, rows[: self.longest])
            if self.longest is not None and len(rows) > self.longest:
                yield Text(f"... and {_folded(report, rows[self.longest :])}", style="dim")
        yield Text()
        yield _totals(report)
        for line in footnotes(report):
            yield Text(line, style="dim")


def _layer_table(columns: list[Column], rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(
            column.title,
            justify="right" if index else "left",
            no_wrap=bool(index),
            overflow="fold",
        )
    for row in rows:
        table.add_row(*(Text(column.cell(row)) for column in columns))
    return table


def to_text(report: Report, width: int = 110) -> str:
    """The report as plain text, without colours."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(TerminalReport(report))
    return stream.getvalue()


def to_markdown(report: Report, order: Order = "savings") -> str:
    """The report as Markdown: totals, every layer, what was left and why."""
    lines = [
        f"## {_title(report)}",
        "",
        *_markdown_table(_total_titles(report), _total_rows(report)),
    ]
    rows, columns = _rows(report, order), _columns(report)
    if rows:
        cells = ([column.cell(row) for column in columns] for row in rows)
        lines += ["", *_markdown_table([column.title for column in columns], cells)]
    lines += ["", *(f"- {line.strip()}" for line in footnotes(report))]
    return "\n".join(lines).rstrip() + "\n"


def to_html(report: Report) -> str:
    """The report as an HTML fragment with no style or script from outside."""
    rows, columns = _rows(report, "savings"), _columns(report)
    parts = [f"<h4>{html.escape(_title(report))}</h4>"]
    parts.append(_html_table(_total_titles(report), _total_rows(report)))
    if rows:
        cells = ([column.cell(row) for column in columns] for row in rows)
        table = _html_table([column.title for column in columns], cells)
        parts.append(f"<details><summary>{len(rows)} layers</summary>{table}</details>")
    notes = "".join(f"<li>{html.escape(line.strip())}</li>" for line in footnotes(report))
    return "\n".join([*parts, f"<ul>{notes}</ul>" if notes else ""])


def footnotes(report: Report) -> list[str]:
    """What was left and why, folded, and what a reader must know of the figures."""
    lines = []
    if report.mode:
        lines.append(f"{len(report.replaced)} layers replaced, {len(report.kept)} left as they are")
        lines += [f"  {count} x {reason}" for reason, count in report.reasons.items()]
    if report.inputs and report.before.macs is not None:
        lines.append(f"MACs and activations are for an input of {report.inputs}")
    return [*lines, *report.notes]


def _title(report: Report) -> str:
    return f"{report.model}, {report.mode}" if report.mode else report.model


def _columns(report: Report) -> tuple[Column, ...]:
    if report.mode and any(row.error is not None for row in report.rows):
        return (*LAYER_COLUMNS, ERROR_COLUMN)
    return LAYER_COLUMNS if report.mode else COST_COLUMNS


def _rows(report: Report, order: Order) -> list[Row]:
    """The layers to show: those replaced; all that cost something where nothing was converted."""
    if report.mode:
        return report.ordered(order)
    if order == "network":
        return list(report.rows)
    return sorted(report.rows, key=lambda row: (-(row.before.macs or 0), -row.before.params))


def _total_titles(report: Report) -> tuple[str, ...]:
    return ("", "before", "after", "x fewer") if report.mode else ("", "total")


def _total_rows(report: Report) -> list[list[str]]:
    before, after, measured = report.before, report.after, report.ratios
    rows = [
        ["params", amount(before.params), amount(after.params), times(measured.params)],
        ["MACs", amount(before.macs), amount(after.macs), times(measured.macs)],
        ["activations", amount(before.acts), amount(after.acts), times(measured.acts)],
    ]
    return rows if report.mode else [row[:2] for row in rows]


def _totals(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(_total_titles(report)):
        table.add_column(title, justify="right" if index else "left", style="bold")
    for row in _total_rows(report):
        table.add_row(*row)
    return table


def _folded(report: Report, rows: list[Row]) -> str:
    if report.mode:
        return f"{len(rows)} more layers, which save {amount(sum(row.saved for row in rows))} MACs"
    return f"{len(rows)} more layers with {amount(sum(r.before.macs or 0 for r in rows))} MACs"


def _markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    titles = list(header)
    align = "|".join("---" if index == 0 else "---:" for index in range(len(titles)))
    lines = [f"| {' | '.join(titles)} |", f"|{align}|"]
    for row in rows:
        cells = [cell.replace("|", "\\|") for cell in row]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _html_table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in header)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
