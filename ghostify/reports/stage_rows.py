"""Stages in a report: what each cost, costs and should cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ghostify.cost.figures import Cost
from ghostify.documents import Column, Table, amount, times
from ghostify.reports.changes import Changed, change, change_table, milliseconds_of


@dataclass(frozen=True)
class Gap:
    """The cost of one part of a stage beyond what Eq. 13 and 14 say of it.

    Attributes:
        part: ``"entry"`` (the second block: the equations have 1 - lambda of it, a slice takes the
            square), ``"thin"`` (the blocks between: rounding, norms, depth-wise layers), ``"tail"``
            (a last block of full width), ``"mix"`` (which the equations leave out).
        macs: Measured minus predicted MACs; None where they could not be counted.
        params: Measured minus predicted parameters.
    """

    part: str
    macs: float | None
    params: float


@dataclass(frozen=True)
class StageRow(Changed):
    """One stage.

    Attributes:
        name: Its name.
        blocks: How many blocks it has.
        shape: What each block gives, as ``256 x 56 x 56``.
        before: What it cost.
        after: What it costs now.
        ratio: The ghost ratio lambda asked for; None where the stage was left.
        channels: Its channels c; None likewise.
        complicated: The channels r of its thin blocks; None likewise.
        eq13: Theoretical ratio of MACs; None likewise, or where MACs are unknown.
        eq14: Theoretical ratio of parameters; None likewise.
        gaps: Where the measured costs part from the theoretical ones, part by part.
        reason: Why the stage was left; None where it was rebuilt.
        time_before: Milliseconds of the original's, alone; None where it was not timed.
        time_after: Of the new one.
    """

    name: str
    blocks: int
    shape: str
    before: Cost
    after: Cost
    ratio: float | None = None
    channels: int | None = None
    complicated: int | None = None
    eq13: float | None = None
    eq14: float | None = None
    gaps: tuple[Gap, ...] = ()
    reason: str | None = None
    time_before: float | None = None
    time_after: float | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageRow:
        """A row from what `to_dict` gave."""
        return super().from_dict({**data, "gaps": tuple(Gap(**gap) for gap in data["gaps"])})


STAGE_COLUMNS = (
    Column("stage", lambda row: row.name),
    Column("blocks", lambda row: str(row.blocks)),
    Column("shape", lambda row: row.shape, narrow=False),
    Column("lambda", lambda row: f"{row.ratio:g}", narrow=False),
    Column("thin", lambda row: f"{row.complicated}/{row.channels}", narrow=False),
    Column("MACs", lambda row: change(row.before.macs, row.after.macs), tiny=False),
    Column("x params", lambda row: times(row.ratios.params)),
    Column("Eq. 14", lambda row: times(row.eq14), tiny=False),
    Column("x MACs", lambda row: times(row.ratios.macs)),
    Column("Eq. 13", lambda row: times(row.eq13), tiny=False),
)


TIME_COLUMN = Column("ms", milliseconds_of)
"""Measured time before and after, beside Eq. 13."""


def stage_table(rows: Sequence[StageRow], longest: int | None) -> Table:
    """The rebuilt stages."""
    columns = list(STAGE_COLUMNS)
    if any(row.time_before is not None for row in rows):
        columns.append(TIME_COLUMN)
    return change_table(columns, rows, "stages", longest)


def reasons_of(left: Iterable[StageRow]) -> list[str]:
    """Why stages were left, each reason with their names."""
    return [f"{names}: {reason}" for reason, names in _names_by((str(s.reason), s) for s in left)]


def gaps_of(rebuilt: Iterable[StageRow]) -> list[str]:
    """Where measured MACs part from Eq. 13, with the names of the stages."""
    found = _names_by((_gaps(stage), stage) for stage in rebuilt)
    return [f"beyond Eq. 13: {gaps} in {names}" for gaps, names in found if gaps]


def _names_by(stages: Iterable[tuple[str, StageRow]]) -> list[tuple[str, str]]:
    """Texts, each with the names of the stages that have it."""
    found: dict[str, list[str]] = {}
    for text, stage in stages:
        found.setdefault(text, []).append(stage.name)
    return [(text, ", ".join(names)) for text, names in found.items()]


def _gaps(row: StageRow) -> str:
    """Where a stage's MACs part from Eq. 13: ``tail +86.7M, entry -57.8M``; empty where nowhere."""
    known = [(gap.part, gap.macs) for gap in row.gaps if gap.macs is not None]
    shown = [(part, macs) for part, macs in known if abs(macs) >= 0.005 * (row.after.macs or 1)]
    shown.sort(key=lambda gap: -abs(gap[1]))
    signs = ((part, "+" if macs > 0 else "-", amount(round(abs(macs)))) for part, macs in shown)
    return ", ".join(f"{part} {sign}{macs}" for part, sign, macs in signs)
