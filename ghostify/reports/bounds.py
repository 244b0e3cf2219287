"""Bounds on what a conversion must save, for CI."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ghostify.errors import SettingsError
from ghostify.reports.conversion import Report
from ghostify.settings.base import is_number


@dataclass(frozen=True)
class Bounds:
    """Bounds that a converted network must keep to; None is no bound.

    Attributes:
        min_params_ratio: Parameters of the original over those of the converted network.
        min_macs_ratio: MACs likewise.
        min_acts_ratio: Activations likewise.
        max_params: Parameters of the converted network.
        max_macs: MACs of the converted network.

    Raises:
        SettingsError: A bound is no number above 0.
    """

    min_params_ratio: float | None = None
    min_macs_ratio: float | None = None
    min_acts_ratio: float | None = None
    max_params: float | None = None
    max_macs: float | None = None

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value is not None and not (is_number(value) and math.isfinite(value) and value > 0):
                raise SettingsError(
                    f"{field.name}={value} makes no sense: give a finite number above 0."
                )


@dataclass(frozen=True)
class Verdict:
    """One bound and what was measured.

    Attributes:
        bound: Name of the bound, as in `Bounds`.
        limit: Its value.
        measured: What the network has; None where it could not be counted.
        reason: Why it could not be counted whole; None where it was.
    """

    bound: str
    limit: float
    measured: float | None
    reason: str | None = None

    @property
    def met(self) -> bool:
        """Whether the bound holds; what could not be counted whole meets none."""
        if self.measured is None or self.reason is not None:
            return False
        is_minimum = self.bound.startswith("min_")
        return self.measured >= self.limit if is_minimum else self.measured <= self.limit

    def __str__(self) -> str:
        sign = "at least" if self.bound.startswith("min_") else "at most"
        measured = "unknown" if self.measured is None else _shown(self.measured)
        what = self.bound.partition("_")[2].replace("_", " ")
        text = f"{what} is {measured}, must be {sign} {self.limit:,}".removesuffix(".0")
        return text if self.reason is None else f"{text} (not counted whole: {self.reason})"


def check(report: Report, bounds: Bounds) -> tuple[Verdict, ...]:
    """Hold a report against bounds: one verdict for each bound that is given.

    Raises:
        SettingsError: No bound is given, so that nothing could fail.

    Example:
        >>> from ghostify.cost import Cost
        >>> report = Report("net", "c-ghost", Cost(params=100), Cost(params=60), ())
        >>> [str(v) for v in check(report, Bounds(min_params_ratio=2)) if not v.met]
        ['params ratio is 1.6666, must be at least 2']
    """
    ratios = report.ratios
    measured = {
        "min_params_ratio": ratios.params,
        "min_macs_ratio": ratios.macs,
        "min_acts_ratio": ratios.acts,
        "max_params": report.after.params,
        "max_macs": report.after.macs,
    }
    given = {name: limit for name, limit in dataclasses.asdict(bounds).items() if limit is not None}
    if not given:
        raise SettingsError(f"No bound is given: give one of {', '.join(measured)}.")
    return tuple(
        # Parameters are counted in any case.
        Verdict(name, limit, measured[name], None if "params" in name else report.missing)
        for name, limit in given.items()
    )


def _shown(value: float) -> str:
    """A count whole, a ratio cut off (not rounded: it must not look as if it met its bound)."""
    return f"{value:,}" if isinstance(value, int) else f"{math.floor(value * 1e4) / 1e4:.4f}"
