"""What a caller's own metric gave, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ghostify.documents import Document, Table, Writable, plain_columns
from ghostify.train.accuracy import SCHEMA


@dataclass(frozen=True)
class Measured(Writable):
    """Figures of a caller's own metric.

    Attributes:
        figures: By name; the first one tells the best weights, higher being better.
        seconds: Wall time.

    Example:
        >>> print(Measured({"iou": 0.5, "recall": 0.25}))
        iou 0.5000, recall 0.2500
    """

    figures: Mapping[str, float]
    seconds: float = field(default=0.0, compare=False)

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

    def to_dict(self) -> dict[str, Any]:
        """Plain data; what is no finite number is None."""
        figures = {k: v if math.isfinite(v) else None for k, v in self.figures.items()}
        return {"schema": SCHEMA, "figures": figures, "seconds": self.seconds}

    def document(self) -> Document:
        """The figures by name."""
        rows = [(name, f"{value:.4f}") for name, value in self.figures.items()]
        return Document(tables=[Table(plain_columns("", "figure"), rows)])
