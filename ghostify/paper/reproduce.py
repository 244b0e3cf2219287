"""Counting the rows of the paper's tables, and holding the counts against the printed digits."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ghostify.cost.counting import count
from ghostify.cost.figures import Cost
from ghostify.documents import Column, Document, Table, Writable, times
from ghostify.errors import SettingsError
from ghostify.numerics.random_state import keep_random_state
from ghostify.paper.rows import Match, PaperRow, PaperTable, Quantity
from ghostify.paper.tables import TABLES
from ghostify.passes.planning import make_plan
from ghostify.passes.survey import survey
from ghostify.reports.compare import compare
from ghostify.reports.conversion import Report
from ghostify.saving import build
from ghostify.zoo.sources import TIMM

SCHEMA = "ghostify.reproduction/1"
"""Name and version of the JSON form; the number goes up when a key changes its meaning or goes."""

MARKS: dict[Match, str] = {"equal": "=", "cut off": "cut", "other": "no"}


@dataclass(frozen=True)
class Outcome:
    """A row of the paper and what was counted for it.

    Attributes:
        table: The table.
        row: The row.
        cost: What was counted; None where the network could not be built.
        measured: MACs of the original over these; None for a network as it is.
        predicted: The same ratio by Eq. 4 or Eq. 13 for what was converted; None likewise.
        missing: Why it could not be built.
    """

    table: PaperTable
    row: PaperRow
    cost: Cost | None
    measured: float | None = None
    predicted: float | None = None
    missing: str = ""

    def count(self, quantity: Quantity) -> int | None:
        """Count of a quantity, by the table's own convention."""
        if self.cost is None:
            return None
        if quantity == "macs" and self.table.convolutions:
            return self.cost.conv_macs
        return int(getattr(self.cost, quantity))

    def match(self, quantity: Quantity) -> Match | None:
        """Whether the count has the paper's digits; None where there is nothing to compare."""
        figure = self.table.figures(self.row).get(quantity)
        counted = self.count(quantity)
        return None if figure is None or counted is None else figure.match(counted)

    @property
    def equal(self) -> bool:
        """Whether all figures of the row round to the paper's digits."""
        matches = [self.match(name) for name in self.table.figures(self.row)]
        return all(match == "equal" for match in matches)

    @property
    def remark(self) -> str:
        """Why a figure is another, where one is."""
        if self.missing or self.equal:
            return self.missing
        return self.row.reason or "the paper's digits are cut off, not rounded"


@dataclass(frozen=True)
class Reproduction(Writable):
    """All rows that were counted."""

    outcomes: tuple[Outcome, ...]

    def by_table(self) -> Iterator[tuple[PaperTable, list[Outcome]]]:
        """The rows of each table."""
        for table in TABLES:
            rows = [outcome for outcome in self.outcomes if outcome.table is table]
            if rows:
                yield table, rows

    @property
    def summary(self) -> str:
        """How many rows agree."""
        built = [outcome for outcome in self.outcomes if outcome.cost is not None]
        equal = sum(outcome.equal for outcome in built)
        skipped = len(self.outcomes) - len(built)
        rest = f"; {skipped} could not be built" if skipped else ""
        return f"{equal} of {len(built)} rows are equal to the paper's digits in all figures{rest}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": SCHEMA, "rows": [_plain(outcome) for outcome in self.outcomes]}

    def document(self) -> Document:
        """The tables, and how many of their rows agree."""
        parts = [
            Document(
                f"Table {table.number}. {table.title}",
                [Table(_columns(table, rows), rows)],
                footnotes=_footnotes(table, rows),
            )
            for table, rows in self.by_table()
        ]
        return Document(parts=parts, summary=self.summary, width=104)

    def to_markdown(self) -> str:
        """The tables as a page: what makes ``docs/paper.md``."""
        return f"{_INTRODUCTION}\n\n{super().to_markdown().rstrip()}.\n"


_INTRODUCTION = """\
# The paper's tables, reproduced

Made by `ghostify reproduce --markdown docs/paper.md`. Each row has the paper's figures and,
beside them, what ghostify counts. `=` means that the count rounds to the paper's digits, `cut`
that it has these digits only when cut off, `no` that it has others (the reason is below the
table). MACs are what the paper calls FLOPs: those of convolutions alone in the CIFAR tables,
linear layers included in the ImageNet tables. The last columns are MACs before / after: as
counted, and as Eq. 4 (C-Ghost) or Eq. 13 (G-Ghost) gives them for the converted parts. Eq. 13
assumes that the last block of a stage is thin too. In the experiments it is full, so less is
saved. Accuracies need full training runs and are not reproduced here."""


def _footnotes(table: PaperTable, rows: Sequence[Outcome]) -> list[str]:
    lines = [f"{outcome.row.label}: {outcome.remark}" for outcome in rows if outcome.remark]
    return [
        *lines,
        *([table.note] if table.note else []),
        *([f"Left out: {table.left_out}"] if table.left_out else []),
    ]


@keep_random_state()
def reproduce(numbers: Sequence[int] = ()) -> Reproduction:
    """Count the rows of the paper's tables.

    Args:
        numbers: Numbers of the tables; all where none is given.

    Raises:
        SettingsError: There is no such table here.

    Example:
        >>> print(reproduce([4]).summary)
        5 of 5 rows are equal to the paper's digits in all figures
    """
    known = {table.number: table for table in TABLES}
    for number in numbers:
        if number not in known:
            raise SettingsError(
                f"Table {number} can't be reproduced by counting: give one of "
                f"{', '.join(map(str, known))}."
            )
    tables = [known[number] for number in numbers] if numbers else list(TABLES)
    return Reproduction(tuple(_outcome(table, row) for table in tables for row in table.rows))


def _outcome(table: PaperTable, row: PaperRow) -> Outcome:
    if row.model.startswith(TIMM) and importlib.util.find_spec("timm") is None:
        return Outcome(table, row, None, missing="needs timm: pip install 'ghostify[timm]'")
    with torch.device("meta"):  # only shapes matter: weights would take time and memory
        model = build(row.model, row.model_args)
    if row.settings is None:
        counted = count(model, input_size=row.input_size)
        if counted.stopped is not None:
            return Outcome(table, row, None, missing=f"can't be run: {counted.stopped}")
        return Outcome(table, row, counted.total)
    found = survey(model, None, row.input_size)
    plan, after = make_plan(found, row.settings, model)
    report = compare(row.model, [plan], found.count, after)
    return Outcome(table, row, report.after, report.ratios.macs, predicted_ratio(report))


def predicted_ratio(report: Report) -> float | None:
    """MACs of a network before / after, if what was converted obeyed Eq. 4 or Eq. 13 exactly."""
    shares = [
        *((row.before.macs, row.eq4) for row in report.replaced),
        *((stage.before.macs, stage.eq13) for stage in report.rebuilt),
    ]
    if report.before.macs is None or not shares:
        return None
    saved = sum(macs - macs / ratio for macs, ratio in shares if macs and ratio)
    return report.before.macs / (report.before.macs - saved)


def _columns(table: PaperTable, rows: Sequence[Outcome]) -> tuple[Column, ...]:
    titles: dict[Quantity, str] = {"params": "M params", "macs": f"{table.macs_unit} MACs"}
    titles["acts"] = "M acts"
    columns = [Column("row", lambda outcome: outcome.row.label)]
    for quantity, title in titles.items():
        if any(quantity in table.figures(outcome.row) for outcome in rows):
            columns += _quantity_columns(quantity, title)
    if any(outcome.measured is not None for outcome in rows):
        columns += [
            Column("x MACs", lambda o: _times(o.measured), narrow=False),
            Column("by Eq.", lambda o: _times(o.predicted), narrow=False),
        ]
    return tuple(columns)


def _times(value: float | None) -> str:
    return "" if value is None else times(value)


def _quantity_columns(quantity: Quantity, title: str) -> list[Column]:
    def printed(outcome: Outcome) -> str:
        figure = outcome.table.figures(outcome.row).get(quantity)
        return "" if figure is None else figure.digits

    def counted(outcome: Outcome) -> str:
        figure = outcome.table.figures(outcome.row).get(quantity)
        value, match = outcome.count(quantity), outcome.match(quantity)
        if figure is None or value is None or match is None:
            return ""
        return f"{figure.show(value)} {MARKS[match]}"

    return [Column(title, printed), Column("ours", counted)]


def _plain(outcome: Outcome) -> dict[str, Any]:
    figures = {
        name: {
            "paper": f"{figure.digits} {figure.unit}",
            "counted": outcome.count(name),
            "match": outcome.match(name),
        }
        for name, figure in outcome.table.figures(outcome.row).items()
    }
    settings = outcome.row.settings
    return {
        "table": outcome.table.number,
        "row": outcome.row.label,
        "model": outcome.row.model,
        "settings": None if settings is None else settings.to_dict(),
        "figures": figures,
        "measured": outcome.measured,
        "predicted": outcome.predicted,
        "remark": outcome.remark,
    }
