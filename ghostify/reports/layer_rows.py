"""Layers in a report: what each cost, costs and should cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ghostify.cost.figures import Cost
from ghostify.documents import Column, Table, sizes, times
from ghostify.reports.changes import Changed, change, change_table, milliseconds_of


@dataclass(frozen=True)
class LayerRow(Changed):
    """One layer.

    Attributes:
        name: Qualified name.
        kind: Name of the layer's class.
        before: What it cost.
        after: What it costs now.
        s: The paper's s; None where the layer was left.
        d: Kernel size of the cheap operation, of each dimension where they differ; None likewise.
        shape: The layer in short, as ``3x3 64->128 /2``.
        eq4: Theoretical speed-up, Eq. 4, exact form; None likewise.
        eq5: Theoretical compression, Eq. 5, exact form; None likewise.
        approximation: ``s*c/(s+c-1)``; None likewise.
        reason: Why the layer was left; None where it was replaced.
        error: How far the warm start's ghosts are from the original, as a part of its variance;
            None where there was none.
        held_out: The same for images that it was not fitted to; None where there were none.
        dead: Whether its maps are constant, so that there is nothing to explain.
        time_before: Milliseconds of the original's, alone; None where it was not timed.
        time_after: Of the new one; of what was left, the fastest that it could become.
    """

    name: str
    kind: str
    before: Cost
    after: Cost
    shape: str = ""
    s: int | None = None
    d: int | tuple[int, ...] | None = None
    eq4: float | None = None
    eq5: float | None = None
    approximation: float | None = None
    reason: str | None = None
    error: float | None = None
    held_out: float | None = None
    dead: bool = False
    time_before: float | None = None
    time_after: float | None = None

    @property
    def cost(self) -> Cost:
        """Its cost in a network that was not converted."""
        return self.before

    @property
    def replaced(self) -> bool:
        """Whether the layer became a ghost module."""
        return self.reason is None


def _theory(row: LayerRow) -> str:
    """Eq. 4 and Eq. 5, equal in value (as the paper notes) but where a layer upsamples."""
    return times(row.eq4) if row.eq4 == row.eq5 else f"{times(row.eq4)}, {times(row.eq5)}"


LAYER_COLUMNS = (
    Column("layer", lambda row: row.name),
    Column("shape", lambda row: row.shape, narrow=False),
    Column("s", lambda row: str(row.s)),
    Column("d", lambda row: sizes(row.d)),
    Column("params", lambda row: change(row.before.params, row.after.params), narrow=False),
    Column("MACs", lambda row: change(row.before.macs, row.after.macs), tiny=False),
    Column("x params", lambda row: times(row.ratios.params)),
    Column("x MACs", lambda row: times(row.ratios.macs)),
    Column("Eq. 4, 5", _theory, tiny=False),
    Column("approx.", lambda row: times(row.approximation), tiny=False),
)

ERROR_COLUMN = Column("error", lambda row: "dead" if row.dead else times(row.error))
"""How far a layer's ghosts are from the original after a warm start."""

HELD_OUT_COLUMN = Column("held out", lambda row: times(row.held_out))
"""The same for images that were not fitted to."""


TIME_COLUMN = Column("ms", milliseconds_of)
"""Measured time before and after, beside Eq. 4."""


def layer_table(rows: Sequence[LayerRow], longest: int | None) -> Table:
    """The replaced layers."""
    columns = list(LAYER_COLUMNS)
    if any(row.time_before is not None for row in rows):
        columns[-1] = TIME_COLUMN  # the approximation gives room: measured beside Eq. 4
    if any(row.error is not None or row.dead for row in rows):
        columns.append(ERROR_COLUMN)
    if any(row.held_out is not None for row in rows):
        columns.append(HELD_OUT_COLUMN)
    return change_table(columns, rows, "layers", longest)
