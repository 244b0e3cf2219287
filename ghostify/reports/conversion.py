"""The report of a conversion: its figures as data, and the document that they make."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ghostify.cost.figures import (
    LONGEST,
    Cost,
    How,
    by_cost,
    cost_table,
    input_note,
    total_rows,
    total_table,
)
from ghostify.documents import Document, Table, Writable, amount, counted, plain_columns, times
from ghostify.documents.page import Page
from ghostify.documents.render import to_markdown
from ghostify.plans import MeasuredTimes
from ghostify.reports.changes import Changed
from ghostify.reports.layer_rows import LayerRow, layer_table
from ghostify.reports.report_page import report_page
from ghostify.reports.stage_rows import StageRow, gaps_of, reasons_of, stage_table

SCHEMA = "ghostify.report/1"
"""Name and version of the JSON form; the number goes up when a key changes its meaning or goes."""

Order = Literal["savings", "network"]


@dataclass(frozen=True)
class Report(Changed, Writable):
    """The costs of a network before and after a conversion.

    Attributes:
        model: Name of the network, or of its class.
        mode: ``"c-ghost"``; empty for the plain costs of a network that was not converted.
        before: Costs of the original.
        after: Costs of the converted network.
        rows: Its layers, in network order.
        stages: Its stages, in network order; empty for modes that know none.
        inputs: Shapes of the inputs that MACs and activations are for.
        form: How those are nested, as plain data; None for images. It is no part of the report.
        notes: What a reader must know: assumed inputs, where tracing or counting stopped, ops
            that were not counted.
        how: How MACs and activations were got: ``"shapes"``, ``"run"`` or ``"partial"``.
        missing: What was not counted, before or after, or why not; None where all was.
        times: The measured times that the conversion was decided by; None where no clock was asked.
    """

    model: str
    mode: str
    before: Cost
    after: Cost
    rows: tuple[LayerRow, ...]
    inputs: str = ""
    form: Any = field(default=None, compare=False, repr=False, kw_only=True)
    notes: tuple[str, ...] = ()
    stages: tuple[StageRow, ...] = ()
    how: How = "shapes"
    missing: str | None = None
    times: MeasuredTimes | None = None

    @property
    def replaced(self) -> tuple[LayerRow, ...]:
        """The layers that became ghost modules."""
        return tuple(row for row in self.rows if row.replaced)

    @property
    def kept(self) -> tuple[LayerRow, ...]:
        """The layers that were left."""
        return tuple(row for row in self.rows if not row.replaced)

    @property
    def rebuilt(self) -> tuple[StageRow, ...]:
        """The stages that were rebuilt."""
        return tuple(stage for stage in self.stages if stage.reason is None)

    @property
    def reasons(self) -> Mapping[str, int]:
        """Why layers were left, and how many for each reason, most frequent first."""
        return dict(Counter(str(row.reason) for row in self.kept).most_common())

    def ordered(self, order: Order = "savings") -> list[LayerRow]:
        """The replaced layers, largest savings first or in network order."""
        rows = list(self.replaced)
        return sorted(rows, key=lambda row: -row.saved) if order == "savings" else rows

    def ordered_stages(self, order: Order = "savings") -> list[StageRow]:
        """The rebuilt stages, largest savings first or in network order."""
        stages = list(self.rebuilt)
        return sorted(stages, key=lambda row: -row.saved) if order == "savings" else stages

    def to_dict(self) -> dict[str, Any]:
        """Plain data, described key by key in ``docs/report.md``."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "mode": self.mode,
            "inputs": self.inputs,
            "how": self.how,
            "missing": self.missing,
            "before": dataclasses.asdict(self.before),
            "after": dataclasses.asdict(self.after),
            "ratios": dataclasses.asdict(self.ratios),
            "times": None if self.times is None else self.times.to_dict(),
            "stages": [stage.to_dict() for stage in self.stages],
            "layers": [row.to_dict() for row in self.rows],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """A report from what `to_dict` gave."""
        timed = data.get("times")
        return cls(
            model=data["model"],
            mode=data["mode"],
            before=Cost(**data["before"]),
            after=Cost(**data["after"]),
            rows=tuple(LayerRow.from_dict(row) for row in data["layers"]),
            inputs=data["inputs"],
            notes=tuple(data["notes"]),
            stages=tuple(StageRow.from_dict(row) for row in data.get("stages", ())),
            how=data.get("how", "shapes"),
            missing=data.get("missing"),
            times=None if timed is None else MeasuredTimes.from_dict(timed),
        )

    def to_markdown(self, order: Order = "savings") -> str:
        """The report as Markdown: totals, every layer, what was left and why."""
        return to_markdown(self.document(order))

    def document(self, order: Order = "savings", longest: int | None = LONGEST) -> Document:
        """The report's tables and notes.

        Args:
            order: Order of layers and stages.
            longest: Layers, and stages, that a terminal shows; None for all.
        """
        if self.mode:
            title, totals = f"{self.model}, {self.mode}", self._totals()
            tables = [
                stage_table(self.ordered_stages(order), longest),
                layer_table(self.ordered(order), longest),
            ]
        else:
            title, totals = self.model, total_table(self.before, self.how)
            rows = self.rows if order == "network" else by_cost(self.rows)
            tables = [cost_table(rows, longest)]
        return Document(title, tables, totals, footnotes=self._footnotes())

    def page(self) -> Page:
        """Totals, each layer before and after, errors of the fit, what was left and why."""
        return report_page(self)

    def _totals(self) -> Table:
        """The whole network before and after."""
        after = (value for _, value, _ in total_rows(self.after, self.how))
        figures = zip(
            total_rows(self.before, self.how), after, dataclasses.astuple(self.ratios), strict=True
        )
        rows = [
            (title, amount(was) + mark, amount(now) + mark, times(ratio) + mark)
            for (title, was, mark), now, ratio in figures
        ]
        return Table(plain_columns("", "before", "after", "x fewer"), [*rows, *self._time()])

    def _time(self) -> list[tuple[str, ...]]:
        """The row of the measured time of the whole network, where there is one."""
        timed = self.times
        if timed is None or timed.before is None or timed.after is None or timed.ratio is None:
            return []
        title, both = f"time, {timed.conditions.runtime}", (timed.before, timed.after)
        return [(title, *(f"{ms:.1f} ms" for ms in both), times(1 / timed.ratio))]

    def _footnotes(self) -> list[str]:
        """What was left and why, and what a reader must know of the figures."""
        lines = []
        if self.stages:
            left = [stage for stage in self.stages if stage.reason is not None]
            rebuilt = counted(len(self.rebuilt), "stage")
            lines.append(f"{rebuilt} rebuilt, {len(left)} left as they are")
            lines += [f"  {reason}" for reason in reasons_of(left)]
            lines += gaps_of(self.rebuilt)
        if self.mode and self.rows:
            replaced = counted(len(self.replaced), "layer")
            lines.append(f"{replaced} replaced, {len(self.kept)} left as they are")
            lines += [f"  {count} x {reason}" for reason, count in self.reasons.items()]
        if self.times is not None:
            lines.append(self.times.describe())
        return [*lines, *input_note(self.inputs, self.before), *self.notes]
