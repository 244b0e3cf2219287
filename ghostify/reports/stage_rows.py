"""Stages in a report: what each cost, costs and should cost, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ghostify.cost.figures import Cost
from ghostify.cost.ratios import Ratios, ratios_of, saved


@dataclass(frozen=True)
class Gap:
    """What one part of a stage costs beyond what Eq. 13 and 14 say of it.

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
class StageRow:
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

    @property
    def ratios(self) -> Ratios:
        """Measured ratios of the stage."""
        return ratios_of(self.before, self.after)

    @property
    def saved(self) -> int:
        """MACs saved, or parameters where MACs are unknown."""
        return saved(self.before, self.after)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` turns back into an equal row."""
        return {**asdict(self), "gaps": [asdict(gap) for gap in self.gaps],
                "ratios": asdict(self.ratios)}  # fmt: skip

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StageRow:
        """A row from what `to_dict` gave."""
        values = {key: value for key, value in data.items() if key != "ratios"}
        parts = {
            "before": Cost(**values["before"]),
            "after": Cost(**values["after"]),
            "gaps": tuple(Gap(**gap) for gap in values["gaps"]),
        }
        return cls(**{**values, **parts})
