"""What a caller's own metric gave, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Measured:
    """Figures of a caller's own metric.

    Attributes:
        figures: By name; the first one tells the best weights, higher being better.

    Example:
        >>> print(Measured({"iou": 0.5, "recall": 0.25}))
        iou 0.5000, recall 0.2500
    """

    figures: Mapping[str, float]

    @property
    def value(self) -> float:
        """The first figure; what is no number is worse than any."""
        first = next(iter(self.figures.values()))
        return -math.inf if math.isnan(first) else first

    @property
    def columns(self) -> dict[str, float | None]:
        """The figures under the names that they have in a log."""
        return {f"val_{name}": value for name, value in self.figures.items()}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.4f}" for name, value in self.figures.items())
