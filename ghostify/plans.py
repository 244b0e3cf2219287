"""What will be replaced by what, what is left and why: data that a person can read and edit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ghostify.cost.report import Report
from ghostify.errors import GhostifyError
from ghostify.settings import Settings, settings_from_dict


@dataclass(frozen=True)
class Replacement:
    """A layer that becomes a ghost module.

    Attributes:
        name: Qualified name of the layer (its first, where it is used at several places).
        kind: Name of its class.
        s: The paper's s.
        d: Kernel size of the cheap operation.
        in_channels: Input channels that one filter sees (c of Eq. 4).
        out_channels: Output channels n.
        kernel_size: Kernel of the layer.
    """

    name: str
    kind: str
    s: int
    d: int
    in_channels: int
    out_channels: int
    kernel_size: tuple[int, int]


@dataclass(frozen=True)
class Kept:
    """A layer that is left as it is, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """All that a conversion decides.

    Attributes:
        settings: What was asked for.
        replaced: The layers that become ghost modules.
        kept: The layers that are left, with the reasons.
        untraced: Where tracing stopped, module by module; empty when the whole network traces.
        report: What the conversion saves, where it was counted; no part of the plan's data.
    """

    settings: Settings
    replaced: tuple[Replacement, ...]
    kept: tuple[Kept, ...] = ()
    untraced: tuple[str, ...] = ()
    report: Report | None = field(default=None, compare=False, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `Plan.from_dict` turns back into an equal plan."""
        return {
            "settings": self.settings.to_dict(),
            "replaced": [_row(r) for r in self.replaced],
            "kept": [_row(k) for k in self.kept],
            "untraced": list(self.untraced),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """A plan from what `Plan.to_dict` gave.

        Raises:
            GhostifyError: The data is no plan.
        """
        try:
            return cls(
                settings=settings_from_dict(data["settings"]),
                replaced=tuple(
                    Replacement(**{**row, "kernel_size": tuple(row["kernel_size"])})
                    for row in data["replaced"]
                ),
                kept=tuple(Kept(**row) for row in data["kept"]),
                untraced=tuple(data["untraced"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise GhostifyError(
                f"This is no plan ({type(error).__name__}: {error}): "
                "give what Plan.to_dict() returned."
            ) from error

    def __str__(self) -> str:
        return str(self.report) if self.report is not None else repr(self)

    def __rich__(self) -> Any:
        """The plan's report in a terminal."""
        return self.report if self.report is not None else repr(self)

    def _repr_html_(self) -> str | None:
        """The plan's report in a notebook."""
        return self.report._repr_html_() if self.report is not None else None


def _row(record: Replacement | Kept) -> dict[str, Any]:
    row = dataclasses.asdict(record)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in row.items()}
