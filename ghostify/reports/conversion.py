"""The report of a conversion as data; how it looks is `ghostify.reports.render`'s subject."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ghostify.cost.figures import Cost, How
from ghostify.cost.ratios import Ratios, ratios_of, saved
from ghostify.reports.stage_rows import StageRow

SCHEMA = "ghostify.report/1"
"""Name and version of the JSON form; the number goes up when a key changes its meaning or goes."""

Order = Literal["savings", "network"]


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        name: Qualified name.
        kind: Name of the layer's class.
        before: What it cost.
        after: What it costs now.
        s: The paper's s; None where the layer was left.
        d: Kernel size of the cheap operation; None likewise.
        shape: The layer in short, as ``3x3 64->128 /2``.
        eq4: Theoretical speed-up, Eq. 4, exact form; None likewise.
        eq5: Theoretical compression, Eq. 5, exact form; None likewise.
        approximation: ``s*c/(s+c-1)``; None likewise.
        reason: Why the layer was left; None where it was replaced.
        error: How far the warm start's ghosts are from the original, as a part of its variance;
            None where there was none.
    """

    name: str
    kind: str
    before: Cost
    after: Cost
    shape: str = ""
    s: int | None = None
    d: int | None = None
    eq4: float | None = None
    eq5: float | None = None
    approximation: float | None = None
    reason: str | None = None
    error: float | None = None

    @property
    def replaced(self) -> bool:
        """Whether the layer became a ghost module."""
        return self.reason is None

    @property
    def ratios(self) -> Ratios:
        """Measured ratios of the layer."""
        return ratios_of(self.before, self.after)

    @property
    def saved(self) -> int:
        """MACs saved, or parameters where MACs are unknown."""
        return saved(self.before, self.after)


@dataclass(frozen=True)
class Report:
    """What a conversion does to a network's costs.

    Attributes:
        model: Name of the network, or of its class.
        mode: ``"c-ghost"``; empty for the plain costs of a network that was not converted.
        before: Costs of the original.
        after: Costs of the converted network.
        rows: Its layers, in network order.
        stages: Its stages, in network order; empty for modes that know none.
        inputs: Shapes of the inputs that MACs and activations are for.
        notes: What a reader must know: assumed inputs, where tracing or counting stopped, ops
            that were not counted.
        how: How MACs and activations were got: ``"shapes"``, ``"run"`` or ``"partial"``.
        missing: What was not counted, before or after, or why not; None where all was.
    """

    model: str
    mode: str
    before: Cost
    after: Cost
    rows: tuple[Row, ...]
    inputs: str = ""
    notes: tuple[str, ...] = ()
    stages: tuple[StageRow, ...] = ()
    how: How = "shapes"
    missing: str | None = None

    @property
    def ratios(self) -> Ratios:
        """Measured ratios of the whole network."""
        return ratios_of(self.before, self.after)

    @property
    def replaced(self) -> tuple[Row, ...]:
        """The layers that became ghost modules."""
        return tuple(row for row in self.rows if row.replaced)

    @property
    def kept(self) -> tuple[Row, ...]:
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

    def ordered(self, order: Order = "savings") -> list[Row]:
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
            "stages": [stage.to_dict() for stage in self.stages],
            "layers": [_row_to_dict(row) for row in self.rows],
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """A report from what `to_dict` gave."""
        return cls(
            model=data["model"],
            mode=data["mode"],
            before=Cost(**data["before"]),
            after=Cost(**data["after"]),
            rows=tuple(_row_from_dict(row) for row in data["layers"]),
            inputs=data["inputs"],
            notes=tuple(data["notes"]),
            stages=tuple(StageRow.from_dict(row) for row in data.get("stages", ())),
            how=data.get("how", "shapes"),
            missing=data.get("missing"),
        )

    def to_markdown(self, order: Order = "savings") -> str:
        """The report as Markdown tables."""
        from ghostify.reports.render import to_markdown

        return to_markdown(self, order)

    def _repr_html_(self) -> str:
        """The report in a notebook."""
        from ghostify.reports.render import to_html

        return to_html(self)

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """The report in IPython, and in a notebook's plain text."""
        printer.text(str(self).rstrip())

    def __rich__(self) -> Any:
        """The report in a terminal: ``rich.print(report)``."""
        from ghostify.reports.render import TerminalReport

        return TerminalReport(self)

    def __str__(self) -> str:
        from ghostify.reports.render import to_text

        return to_text(self)


def _row_to_dict(row: Row) -> dict[str, Any]:
    return {**dataclasses.asdict(row), "ratios": dataclasses.asdict(row.ratios)}


def _row_from_dict(data: Mapping[str, Any]) -> Row:
    values = {key: value for key, value in data.items() if key != "ratios"}
    costs = {"before": Cost(**values["before"]), "after": Cost(**values["after"])}
    return Row(**{**values, **costs})
