"""Measured ratios: how many times fewer parameters, MACs and activations."""

from __future__ import annotations

from dataclasses import dataclass

from ghostify.cost.figures import Cost


@dataclass(frozen=True)
class Ratios:
    """Measured before / after; None where a figure is unknown."""

    params: float | None
    macs: float | None
    acts: float | None


def ratio(before: int | None, after: int | None) -> float | None:
    """How many times fewer: before / after; None where either is unknown or after is 0."""
    return before / after if before is not None and after else None


def ratios_of(before: Cost, after: Cost) -> Ratios:
    """The ratios of two costs."""
    return Ratios(
        params=ratio(before.params, after.params),
        macs=ratio(before.macs, after.macs),
        acts=ratio(before.acts, after.acts),
    )


def saved(before: Cost, after: Cost) -> int:
    """MACs saved, or parameters where MACs are unknown."""
    if before.macs is None or after.macs is None:
        return before.params - after.params
    return before.macs - after.macs
