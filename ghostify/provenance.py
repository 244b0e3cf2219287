"""How a network came about: its source and what was done to it, kept with the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from ghostify.cost.report import Report
from ghostify.plans import Plan

_ATTRIBUTE = "_ghostify"


@dataclass(frozen=True)
class Source:
    """What builds the original network.

    Attributes:
        name: A model name, ``package.module:factory`` or ``file.py:factory``.
        model_args: Keyword arguments for it.
    """

    name: str
    model_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Provenance:
    """A network's history.

    Attributes:
        source: What built the original; None where it is not known.
        plans: The conversions that were applied, in order.
        report: What the last conversion saved.
    """

    source: Source | None = None
    plans: tuple[Plan, ...] = ()
    report: Report | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Provenance:
        # It never changes, and a copy of a network has its history; copying rows would cost time.
        return self


def provenance_of(model: nn.Module) -> Provenance:
    """What is known of a network's history; empty for one that ghostify has not met."""
    found = model.__dict__.get(_ATTRIBUTE)
    return found if isinstance(found, Provenance) else Provenance()


def remember(model: nn.Module, provenance: Provenance) -> None:
    """Attach a history to a network; it goes along with deepcopy and pickle."""
    model.__dict__[_ATTRIBUTE] = provenance


def remember_source(model: nn.Module, source: Source) -> None:
    """Attach what built a network."""
    remember(model, replace(provenance_of(model), source=source))
