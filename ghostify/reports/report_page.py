"""The page of a conversion's report: totals, bars layer by layer, what was left and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ghostify.cost.figures import (
    Cost,
    add_costs,
    by_cost,
    cost_table,
    input_note,
    total_rows,
)
from ghostify.documents import Table, amount, counted, plain_columns, times
from ghostify.documents.page import (
    Bar,
    Headline,
    Headlines,
    Notes,
    Number,
    Page,
    Profile,
    Section,
    Tabular,
    Tone,
)
from ghostify.reports.changes import change
from ghostify.reports.layer_rows import LayerRow, layer_table
from ghostify.reports.stage_rows import StageRow, gaps_of, stage_table

if TYPE_CHECKING:
    from ghostify.reports.conversion import Report

FEW = 40
"""Rows of a table that stands open."""

IN_ORDER = "In the network's order. Point at a bar for its figures."

POOR = 0.5
"""Part of a layer's variance that its ghosts leave unexplained, above which it is marked."""


def report_page(report: Report) -> Page:
    """The page of a report."""
    if not report.mode:
        lead = "; ".join(input_note(report.inputs, report.before))
        return Page(report.model, "What a network costs", lead, [*_sections_of_plain(report)])
    return Page(report.model, f"{report.mode} conversion", _lead(report), report_sections(report))


def report_sections(report: Report, title: str = "") -> list[Section]:
    """The sections of a conversion's report, for its own page and for others that hold it."""
    changed = Headlines([*_headlines(report)], title)
    left, notes = _left(report), [*gaps_of(report.rebuilt), *report.notes]
    tables = {
        "Rebuilt stages": stage_table(report.ordered_stages("network"), None),
        "Ghost modules": layer_table(report.ordered("network"), None),
    }
    return [
        changed,
        *_profiles(report.rebuilt, "Each stage", _stage_hover, lambda row: "stage"),
        *_profiles(report.rows, "Each layer", _layer_hover, _tone),
        *_errors(report),
        *(_tabular(table, title) for title, table in tables.items() if table.rows),
        *([Tabular(left, "What was left, and why")] if left.rows else []),
        *([Notes(notes, "Notes")] if notes else []),
    ]


def _lead(report: Report) -> str:
    parts = [
        f"{counted(len(report.rebuilt), 'stage')} rebuilt" if report.stages else "",
        f"{len(report.replaced)} of {counted(len(report.rows), 'layer')} became ghost modules"
        if report.rows
        else "",
    ]
    sentences = [", ".join(filter(None, parts)), *input_note(report.inputs, report.before)]
    return ". ".join(filter(None, sentences)) + "."


def _headlines(report: Report) -> Iterator[Headline]:
    after = total_rows(report.after, report.how)
    ratios = (report.ratios.params, report.ratios.macs, report.ratios.acts)
    figures = zip(total_rows(report.before, report.how), after, ratios, strict=True)
    for (title, was, mark), (_, now, _), ratio in sorted(figures, key=_macs_first):
        notes = [Number(amount(was) + mark, was, "before"), Number(amount(now) + mark, now, "now")]
        left = now / was if was and now is not None else None
        value = Number("?" if ratio is None else f"{ratio:.2f}x", ratio)
        yield Headline(title, value, "fewer", notes, left)


def _macs_first(figure: tuple[tuple[str, int | None, str], Any, Any]) -> bool:
    return figure[0][0] != "MACs"


def _profiles(
    rows: Sequence[Any],
    title: str,
    hover: Callable[[Any], list[str]],
    tone: Callable[[Any], Tone],
) -> Iterator[Section]:
    """Bars of MACs and of parameters, before and after."""
    legend = _legend([tone(row) for row in rows])
    for name, words in (("macs", "MACs"), ("params", "parameters")):
        bars = [
            Bar(row.name, getattr(row.before, name), getattr(row.after, name), tone(row),
                [row.name, *hover(row)])
            for row in rows
        ]  # fmt: skip
        if len(bars) > 1 and any(bar.before for bar in bars):
            yield Profile(f"{title}: {words}", bars, legend, IN_ORDER)


MEANINGS: dict[Tone, str] = {
    "ghost": "ghost module",
    "stage": "rebuilt stage",
    "left": "left as it is",
    "worse": "costs more than before",
}


def _legend(tones: Sequence[Tone]) -> dict[Tone, str]:
    return {tone: meaning for tone, meaning in MEANINGS.items() if tone in set(tones)}


def _tone(row: LayerRow) -> Tone:
    if not row.replaced:
        return "left"
    return "worse" if row.saved < 0 else "ghost"


def _costs_hover(before: Cost, after: Cost, ratios: Any) -> list[str]:
    return [
        f"MACs {change(before.macs, after.macs)}: {times(ratios.macs)}x fewer",
        f"parameters {change(before.params, after.params)}: {times(ratios.params)}x fewer",
    ]


def _layer_hover(row: LayerRow) -> list[str]:
    if row.reason is not None:
        cost = f"MACs {amount(row.before.macs)}, parameters {amount(row.before.params)}"
        return [f"{row.kind}, {cost}", f"left: {row.reason}"]
    lines = [
        f"{row.kind} {row.shape}, s={row.s}",
        *_costs_hover(row.before, row.after, row.ratios),
        f"Eq. 4 promises {times(row.eq4)}, Eq. 5 {times(row.eq5)}",
    ]
    if row.error is not None:
        held_out = "" if row.held_out is None else f", {times(row.held_out)} held out"
        lines.append(f"error of the fit {times(row.error)}{held_out}")
    return lines


def _stage_hover(row: StageRow) -> list[str]:
    return [
        f"{row.blocks} blocks of {row.shape}, lambda {row.ratio:g}",
        *_costs_hover(row.before, row.after, row.ratios),
        f"Eq. 13 promises {times(row.eq13)}, Eq. 14 {times(row.eq14)}",
    ]


def _errors(report: Report) -> Iterator[Section]:
    """What the fit left unexplained, layer by layer."""
    rows = [row for row in report.replaced if row.error is not None]
    if not rows:
        return
    is_held_out = any(row.held_out is not None for row in rows)
    judged = [row.error if row.held_out is None else row.held_out for row in rows]
    bars = [
        Bar(row.name, None, error, "worse" if (error or 0) > POOR else "ghost",
            [row.name, *_layer_hover(row)])
        for row, error in zip(rows, judged, strict=True)
    ]  # fmt: skip
    seen = "images that were not fitted to" if is_held_out else "what was fitted to"
    yield Profile(
        "Errors of the fit",
        bars,
        {"ghost": "error", **({"worse": "poor"} if any(b.tone == "worse" for b in bars) else {})},
        f"What the ghosts leave unexplained of each layer's variance, for {seen}: 0 is exact, 1 no "
        "better than the mean.",
        shown="{:g}".format,
        least=1.0,
        limit=POOR,
        limit_label="half",
    )


def _left(report: Report) -> Table:
    """Each reason with what was left for it."""
    found: dict[str, list[Any]] = {}
    left_stages = [stage for stage in report.stages if stage.reason is not None]
    rows: Sequence[Any] = [*report.kept, *left_stages]
    for row in rows:
        found.setdefault(str(row.reason), []).append(row)
    lines = [
        (reason, str(len(left)), _macs(left), _names([row.name for row in left]))
        for reason, left in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
    return Table(plain_columns("reason", "number", "their MACs", "which"), lines)


def _macs(rows: Sequence[Any]) -> str:
    known = [row.before for row in rows if isinstance(row, LayerRow)]
    return amount(add_costs(known).macs) if known else ""


def _names(names: Sequence[str], most: int = 4) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _tabular(table: Table, title: str) -> Section:
    """A table, folded where it is long."""
    return Tabular(table if len(table.rows) > FEW else replace(table, folded=""), title)


def _sections_of_plain(report: Report) -> Iterator[Section]:
    """The sections of a network that was not converted."""
    rows = sorted(total_rows(report.before, report.how), key=lambda row: row[0] != "MACs")
    yield Headlines(
        [Headline(title, Number(amount(value) + mark, value)) for title, value, mark in rows]
    )
    for name, words in (("macs", "MACs"), ("params", "parameters")):
        bars = [
            Bar(row.name, None, getattr(row.before, name), "plain",
                [row.name, f"{row.kind} {row.shape}",
                 f"MACs {amount(row.before.macs)}, parameters {amount(row.before.params)}"])
            for row in report.rows
        ]  # fmt: skip
        if any(bar.after for bar in bars):
            yield Profile(f"Each layer: {words}", bars, {}, IN_ORDER)
    yield _tabular(cost_table(by_cost(report.rows), None), "Layers, the most expensive first")
    if report.notes:
        yield Notes(report.notes, "Notes")
