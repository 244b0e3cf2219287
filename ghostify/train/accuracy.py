"""Accuracy of a network on labelled images, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from ghostify.documents import Document, Table, Writable, plain_columns

SCHEMA = "ghostify.evaluate/1"
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Share:
    """Number of right images among all, with its confidence interval.

    Attributes:
        right: Their number.
        images: The number of all.
    """

    right: int
    images: int

    @property
    def percent(self) -> float:
        """Right ones in percent."""
        return 100 * self.right / self.images

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's interval that holds the true percentage with 95 % confidence.

        Example:
            >>> [round(bound, 1) for bound in Share(90, 100).interval]
            [82.6, 94.5]
        """
        n, p = self.images, self.right / self.images
        middle = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
        reach = Z95 / (1 + Z95**2 / n) * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
        return 100 * max(middle - reach, 0.0), 100 * min(middle + reach, 1.0)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.percent:.2f} % ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class Evaluation(Writable):
    """Accuracy and loss of a network on some images.

    Attributes:
        top1: Images whose label has the highest score.
        top5: Images whose label is among the five highest; None below six classes.
        images: Number of images.
        loss: Mean cross-entropy.
        seconds: Wall time.
    """

    top1: Share
    top5: Share | None
    images: int
    loss: float
    seconds: float = 0.0

    @property
    def columns(self) -> dict[str, float | None]:
        """The figures under the names that they have in a log."""
        five = None if self.top5 is None else self.top5.percent
        return {"val_top1": self.top1.percent, "val_top5": five, "val_loss": self.loss}

    def __str__(self) -> str:
        five = f", top-5 {self.top5}" if self.top5 is not None else ""
        return f"top-1 {self.top1}{five}, loss {self.loss:.4f}, {self.images} images"

    def to_dict(self) -> dict[str, Any]:
        """Plain data: percentages with their intervals."""
        shares = {
            name: None if share is None else {
                "percent": share.percent, "interval95": list(share.interval), **asdict(share)
            }
            for name, share in (("top1", self.top1), ("top5", self.top5))
        }  # fmt: skip
        return {
            "schema": SCHEMA, "images": self.images, "loss": self.loss, **shares,
            "seconds": self.seconds,
        }  # fmt: skip

    def document(self) -> Document:
        """Percentages with their intervals."""
        rows = []
        for name, share in (("top-1", self.top1), ("top-5", self.top5)):
            if share is not None:
                low, high = share.interval
                rows.append((name, f"{share.percent:.2f}", f"{low:.2f} to {high:.2f}"))
        table = Table(plain_columns("", "percent", "95 % interval"), rows)
        summary = f"{self.images} images, mean loss {self.loss:.4f}"
        return Document(tables=[table], summary=summary)
