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
        max_latency_ratio: Measured time of the converted network over that of the original.

    Raises:
        SettingsError: A bound is no number above 0.
    """

    min_params_ratio: float | None = None
    min_macs_ratio: float | None = None
    min_acts_ratio: float | None = None
    max_params: float | None = None
    max_macs: float | None = None
    max_latency_ratio: float | None = None

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
        interval: Of what was measured by a clock: what holds it 95 times of 100; None of counts.
    """

    bound: str
    limit: float
    measured: float | None
    reason: str | None = None
    interval: tuple[float, float] | None = None

    @property
    def met(self) -> bool:
        """Whether the bound holds; what could not be counted whole meets none.

        A miss that noise could explain, because the interval reaches the bound, is none.
        """
        if self.measured is None or self.reason is not None:
            return False
        is_minimum = self.bound.startswith("min_")
        if self.interval is not None:
            return self.interval[0] <= self.limit
        return self.measured >= self.limit if is_minimum else self.measured <= self.limit

    @property
    def in_doubt(self) -> bool:
        """Whether the bound is missed by no more than noise could explain."""
        return self.interval is not None and self.met and self.measured > self.limit  # type: ignore

    def __str__(self) -> str:
        sign = "at least" if self.bound.startswith("min_") else "at most"
        measured = "unknown" if self.measured is None else _shown(self.measured)
        if self.interval is not None:
            measured += " ({:.4f} to {:.4f})".format(*self.interval)
        what = self.bound.partition("_")[2].replace("_", " ")
        text = f"{what} is {measured}, must be {sign} {self.limit:,}".removesuffix(".0")
        return text if self.reason is None else f"{text} (not counted whole: {self.reason})"


Latency = tuple[float, float, float]
"""A measured ratio of times, and both ends of its 95 % confidence interval."""


def check(report: Report, bounds: Bounds, latency: Latency | None = None) -> tuple[Verdict, ...]:
    """Hold a report against bounds: one verdict for each bound that is given.

    Args:
        report: What a conversion saved.
        bounds: The bounds.
        latency: The measured ratio of times; None where it was not measured.

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
        "max_latency_ratio": None if latency is None else latency[0],
    }
    given = {name: limit for name, limit in dataclasses.asdict(bounds).items() if limit is not None}
    if not given:
        raise SettingsError(f"No bound is given: give one of {', '.join(measured)}.")
    return tuple(
        Verdict(
            name, limit, measured[name], _reason(name, report, latency),
            latency[1:] if latency is not None and name == "max_latency_ratio" else None,
        )
        for name, limit in given.items()
    )  # fmt: skip


def _reason(bound: str, report: Report, latency: Latency | None) -> str | None:
    """Why a bound can't be judged."""
    if bound == "max_latency_ratio":
        return "no time was measured" if latency is None else None
    return None if "params" in bound else report.missing  # parameters are counted in any case


def _shown(value: float) -> str:
    """A count whole, a ratio cut off (not rounded: it must not look as if it met its bound)."""
    return f"{value:,}" if isinstance(value, int) else f"{math.floor(value * 1e4) / 1e4:.4f}"
