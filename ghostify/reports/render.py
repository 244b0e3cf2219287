"""How a report looks: in a terminal, a notebook, a Markdown file."""

from __future__ import annotations

import html
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from ghostify.reports.conversion import Order, Report, Row
from ghostify.reports.stage_rows import Gap, StageRow
from ghostify.reports.tables import (
    Column,
    amount,
    cells,
    counted,
    html_table,
    markdown_table,
    terminal_table,
    times,
)

LONGEST = 20
"""Layers that a table in a terminal shows before it folds the rest into a line."""


# Eq. 4 and Eq. 5 are equal in value (as the paper notes), so that one column serves both.
LAYER_COLUMNS = (
    Column("layer", lambda row: row.name),
    Column("shape", lambda row: row.shape, narrow=False),
    Column("s", lambda row: str(row.s)),
    Column("d", lambda row: str(row.d)),
    Column("params", lambda row: _change(row.before.params, row.after.params), narrow=False),
    Column("MACs", lambda row: _change(row.before.macs, row.after.macs), tiny=False),
    Column("x params", lambda row: times(row.ratios.params)),
    Column("x MACs", lambda row: times(row.ratios.macs)),
    Column("Eq. 4, 5", lambda row: times(row.eq4), tiny=False),
    Column("approx.", lambda row: times(row.approximation), tiny=False),
)

STAGE_COLUMNS = (
    Column("stage", lambda row: row.name),
    Column("blocks", lambda row: str(row.blocks)),
    Column("shape", lambda row: row.shape, narrow=False),
    Column("lambda", lambda row: f"{row.ratio:g}", narrow=False),
    Column("thin", lambda row: f"{row.complicated}/{row.channels}", narrow=False),
    Column("MACs", lambda row: _change(row.before.macs, row.after.macs), tiny=False),
    Column("x params", lambda row: times(row.ratios.params)),
    Column("Eq. 14", lambda row: times(row.eq14), tiny=False),
    Column("x MACs", lambda row: times(row.ratios.macs)),
    Column("Eq. 13", lambda row: times(row.eq13), tiny=False),
)

ERROR_COLUMN = Column("error", lambda row: times(row.error))
"""How far a layer's ghosts are from the original after a warm start."""

COST_COLUMNS = (
    Column("layer", lambda row: row.name),
    Column("kind", lambda row: row.kind, tiny=False),
    Column("output", lambda row: row.shape, narrow=False),
    Column("params", lambda row: amount(row.before.params)),
    Column("MACs", lambda row: amount(row.before.macs)),
    Column("activations", lambda row: amount(row.before.acts), tiny=False),
)


def _change(before: int | None, after: int | None) -> str:
    return f"{amount(before)} > {amount(after)}"


def _gaps(row: StageRow) -> str:
    """Where a stage's MACs part from Eq. 13: ``tail +86.7M, entry -57.8M``; empty where nowhere."""
    known = [(gap, gap.macs) for gap in row.gaps if gap.macs is not None]
    shown = [(gap, macs) for gap, macs in known if abs(macs) >= 0.005 * (row.after.macs or 1)]
    shown.sort(key=lambda pair: -abs(pair[1]))
    return ", ".join(_signed(gap, macs) for gap, macs in shown)


def _signed(gap: Gap, macs: float) -> str:
    return f"{gap.part} {'+' if macs > 0 else '-'}{amount(round(abs(macs)))}"


@dataclass(frozen=True)
class Section:
    """A table of a report, and what a line for the rows beyond the longest table says.

    Attributes:
        columns: Its columns.
        rows: Its rows, most important first.
        kind: What the rows are, in the plural.
    """

    columns: tuple[Column, ...]
    rows: list[Any]
    kind: str

    @property
    def titles(self) -> list[str]:
        """The titles of its columns."""
        return [column.title for column in self.columns]

    def folded(self, hidden: list[Any]) -> str:
        """What the rows that are not shown come to."""
        known = (row for row in hidden if None not in (row.before.macs, row.after.macs))
        saved = sum(row.saved for row in known)
        if saved:
            return f"{len(hidden)} more {self.kind}, which save {amount(saved)} MACs"
        macs = sum(row.before.macs or 0 for row in hidden)
        return f"{len(hidden)} more {self.kind} with {amount(macs)} MACs"


def sections(report: Report, order: Order) -> list[Section]:
    """The tables of a report; those without rows are left out."""
    if not report.mode:
        return [Section(COST_COLUMNS, _all_layers(report, order), "layers")]
    found = [
        Section(STAGE_COLUMNS, report.ordered_stages(order), "stages"),
        Section(_layer_columns(report), report.ordered(order), "layers"),
    ]
    return [section for section in found if section.rows]


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
        for section in sections(report, self.order):
            columns = [column for column in section.columns if column.fits(options.max_width)]
            yield terminal_table(columns, section.rows[: self.longest])
            if self.longest is not None and len(section.rows) > self.longest:
                yield Text(f"... and {section.folded(section.rows[self.longest :])}", style="dim")
        yield Text()
        yield _totals(report)
        for line in footnotes(report):
            yield Text(line, style="dim")


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
        *markdown_table(_total_titles(report), _total_rows(report)),
    ]
    for section in sections(report, order):
        lines += ["", *markdown_table(section.titles, cells(section.columns, section.rows))]
    lines += ["", *(f"- {line.strip()}" for line in footnotes(report))]
    return "\n".join(lines).rstrip() + "\n"


def to_html(report: Report) -> str:
    """The report as an HTML fragment with no style or script from outside."""
    parts = [f"<h4>{html.escape(_title(report))}</h4>"]
    parts.append(html_table(_total_titles(report), _total_rows(report)))
    for section in sections(report, "savings"):
        table = html_table(section.titles, cells(section.columns, section.rows))
        title = f"{len(section.rows)} {section.kind}"
        parts.append(f"<details><summary>{title}</summary>{table}</details>")
    notes = "".join(f"<li>{html.escape(line.strip())}</li>" for line in footnotes(report))
    return "\n".join([*parts, f"<ul>{notes}</ul>" if notes else ""])


def footnotes(report: Report) -> list[str]:
    """What was left and why, folded, and what a reader must know of the figures."""
    lines = []
    if report.stages:
        left = [stage for stage in report.stages if stage.reason is not None]
        lines.append(
            f"{counted(len(report.rebuilt), 'stage')} rebuilt, {len(left)} left as they are"
        )
        lines += [f"  {name}: {reason}" for reason, name in _by_reason(left)]
        lines += [f"beyond Eq. 13: {gaps} in {names}" for gaps, names in _by_gaps(report.rebuilt)]
    if report.mode and report.rows:
        replaced = counted(len(report.replaced), "layer")
        lines.append(f"{replaced} replaced, {len(report.kept)} left as they are")
        lines += [f"  {count} x {reason}" for reason, count in report.reasons.items()]
    if report.inputs and report.before.macs is not None:
        lines.append(f"MACs and activations are for an input of {report.inputs}")
    return [*lines, *report.notes]


def _title(report: Report) -> str:
    return f"{report.model}, {report.mode}" if report.mode else report.model


def _layer_columns(report: Report) -> tuple[Column, ...]:
    fitted = any(row.error is not None for row in report.rows)
    return (*LAYER_COLUMNS, ERROR_COLUMN) if fitted else LAYER_COLUMNS


def _by_reason(stages: Iterable[StageRow]) -> list[tuple[str, str]]:
    """Reasons, each with the names of the stages that were left for it."""
    return _names_by(stages, lambda stage: str(stage.reason))


def _by_gaps(stages: Iterable[StageRow]) -> list[tuple[str, str]]:
    """What parts measured MACs from Eq. 13, with the names of the stages where it does."""
    return [(gaps, names) for gaps, names in _names_by(stages, _gaps) if gaps]


def _names_by(stages: Iterable[StageRow], text: Callable[[StageRow], str]) -> list[tuple[str, str]]:
    found: dict[str, list[str]] = {}
    for stage in stages:
        found.setdefault(text(stage), []).append(stage.name)
    return [(key, ", ".join(names)) for key, names in found.items()]


def _all_layers(report: Report, order: Order) -> list[Row]:
    """All layers that cost something."""
    if order == "network":
        return list(report.rows)
    return sorted(report.rows, key=lambda row: (-(row.before.macs or 0), -row.before.params))


def _total_titles(report: Report) -> tuple[str, ...]:
    return ("", "before", "after", "x fewer") if report.mode else ("", "total")


def _total_rows(report: Report) -> list[list[str]]:
    before, after, measured = report.before, report.after, report.ratios

    def row(title: str, was: int | None, now: int | None, ratio: float | None) -> list[str]:
        mark = " (partial)" if report.how == "partial" and was is not None else ""
        return [title, amount(was) + mark, amount(now) + mark, times(ratio) + mark]

    rows = [
        ["params", amount(before.params), amount(after.params), times(measured.params)],
        row("MACs", before.macs, after.macs, measured.macs),
        row("activations", before.acts, after.acts, measured.acts),
    ]
    return rows if report.mode else [row[:2] for row in rows]


def _totals(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(_total_titles(report)):
        table.add_column(title, justify="right" if index else "left", style="bold")
    for row in _total_rows(report):
        table.add_row(*row)
    return table
