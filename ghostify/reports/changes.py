"""What layers and stages have in common in a report: a cost before, a cost after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from typing_extensions import Self

from ghostify.cost.figures import Cost
from ghostify.cost.ratios import Ratios, ratios_of, saved
from ghostify.documents import Column, Table, amount


class Changed:
    """Base of what cost ``before`` and costs ``after``: a data class."""

    before: Cost
    after: Cost

    @property
    def ratios(self) -> Ratios:
        """Measured ratios."""
        return ratios_of(self.before, self.after)

    @property
    def saved(self) -> int:
        """MACs saved, or parameters where MACs are unknown."""
        return saved(self.before, self.after)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` turns back into an equal row."""
        row: Any = self
        return {**asdict(row), "ratios": asdict(self.ratios)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """A row from what `to_dict` gave."""
        values = {key: value for key, value in data.items() if key != "ratios"}
        costs = {key: Cost(**data[key]) for key in ("before", "after")}
        return cls(**{**values, **costs})


def change(before: int | None, after: int | None) -> str:
    """Two counts: ``118M > 59.6M``."""
    return f"{amount(before)} > {amount(after)}"


def milliseconds_of(row: Any) -> str:
    """Measured times of a row: ``1.20 > 0.81``; empty where there are none."""
    if row.time_before is None or row.time_after is None:
        return ""
    return f"{row.time_before:.2f} > {row.time_after:.2f}"


def change_table(
    columns: Sequence[Column], rows: Sequence[Any], kind: str, longest: int | None
) -> Table:
    """A table of layers or stages.

    Args:
        columns: Its columns.
        rows: What changed, most important first.
        kind: What the rows are, in the plural.
        longest: Rows that a terminal shows; None for all.
    """
    hidden = [] if longest is None else rows[longest:]
    rest = f"{len(hidden)} more {kind}{_saving(hidden)}" if hidden else ""
    return Table(columns, rows, folded=f"{len(rows)} {kind}", longest=longest, rest=rest)


def _saving(hidden: Sequence[Changed]) -> str:
    known = (row for row in hidden if None not in (row.before.macs, row.after.macs))
    macs = sum(row.saved for row in known)
    if macs:
        return f", which save {amount(macs)} MACs"
    return f" with {amount(sum(row.before.macs or 0 for row in hidden))} MACs"
