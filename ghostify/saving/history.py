"""How a network came about: its source and what was done to it, kept with the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ghostify.plans import Plan
from ghostify.reports.conversion import Report

_ATTRIBUTE = "_ghostify"


@dataclass(frozen=True)
class Source:
    """The name and arguments that build the original network.

    Attributes:
        name: A model name, ``package.module:factory`` or ``file.py:factory``.
        model_args: Keyword arguments for it.
    """

    name: str
    model_args: Mapping[str, Any] = field(default_factory=dict)


INTERRUPTED = "interrupted: "
"""How the note on a warm start begins that was stopped (Ctrl-C)."""


@dataclass(frozen=True)
class Start:
    """Result of a warm start, as it is kept with the network.

    Attributes:
        errors: What the ghosts of each layer leave unexplained, as a part of the variance; None
            where there is none, since its maps are constant.
        notes: What was done, in sentences.
        held_out: The same for images that were not fitted to.
    """

    errors: Mapping[str, float | None]
    notes: tuple[str, ...]
    held_out: Mapping[str, float] = field(default_factory=dict)

    @property
    def interrupted(self) -> str | None:
        """The note on what an interrupt left undone, where there was one."""
        return next((note for note in self.notes if note.startswith(INTERRUPTED)), None)

    def annotate(self, report: Report) -> Report:
        """The report with each layer's error, and what was done in its notes."""
        rows = tuple(
            replace(
                row,
                error=self.errors.get(row.name),
                held_out=self.held_out.get(row.name),
                dead=row.name in self.errors and self.errors[row.name] is None,
            )
            for row in report.rows
        )
        return replace(report, rows=rows, notes=(*report.notes, *self.notes))


@dataclass(frozen=True)
class History:
    """A network's history.

    Attributes:
        source: What built the original; None where it is not known.
        plans: The conversions that were applied, in order.
        report: What the last conversion saved.
        start: What the warm start of the last conversion came to, where it had one.
    """

    source: Source | None = None
    plans: tuple[Plan, ...] = ()
    report: Report | None = None
    start: Start | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> History:
        # It never changes, and a copy of a network has its history; copying rows would cost time.
        return self


def history_of(model: nn.Module) -> History:
    """A network's history; empty for one that ghostify has not met."""
    found = model.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, History) else History()


def remember(model: nn.Module, history: History) -> None:
    """Attach a history to a network; it goes along with deepcopy and pickle."""
    model.__dict__[_ATTRIBUTE] = history


def remember_source(model: nn.Module, source: Source) -> None:
    """Attach what built a network."""
    remember(model, replace(history_of(model), source=source))


def name_of(model: nn.Module) -> str:
    """Name of a network: the one it was built from, else its class."""
    source = history_of(model).source
    return source.name if source is not None else type(model).__name__
