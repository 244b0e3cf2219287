"""How a row of the paper's tables is written down, and when a count is equal to its digits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal
from typing import Any, Literal

from ghostify.settings import Settings

UNITS = {"M": 10**6, "B": 10**9}

Match = Literal["equal", "cut off", "other"]
"""``"equal"``: the count rounds to the paper's digits; ``"cut off"``: it has them, unrounded."""

Quantity = Literal["params", "macs", "acts"]


@dataclass(frozen=True)
class Figure:
    """A figure as the paper prints it.

    Attributes:
        digits: As printed, ``"13.0"``.
        unit: ``"M"`` or ``"B"``.

    Example:
        >>> Figure("313", "M").match(313_196_544), Figure("7.3", "M").match(7_358_820)
        ('equal', 'cut off')
    """

    digits: str
    unit: str

    def match(self, count: int) -> Match:
        """Whether a count has the paper's digits."""
        printed = Decimal(self.digits)
        exact = Decimal(count) / UNITS[self.unit]
        if exact.quantize(printed, ROUND_HALF_UP) == printed:
            return "equal"
        return "cut off" if exact.quantize(printed, ROUND_DOWN) == printed else "other"

    def show(self, count: int) -> str:
        """A count in the figure's unit, with two digits more."""
        decimals = len(self.digits.partition(".")[2])
        return f"{count / UNITS[self.unit]:.{decimals + 2}f}"


@dataclass(frozen=True)
class PaperRow:
    """A row of a table, and how to get it.

    Attributes:
        label: As the paper names it; what was added is in brackets.
        model: The network, or the original that is converted.
        params: Parameters as printed, or None.
        macs: "FLOPs" as printed, or None.
        acts: Activations as printed, or None.
        settings: The conversion; None for a network as it is.
        model_args: Arguments for the network's factory.
        input_size: ``(C, H, W)`` where it is not the network's own.
        reason: Why a figure is another, where one is.
    """

    label: str
    model: str
    params: str | None = None
    macs: str | None = None
    acts: str | None = None
    settings: Settings | None = None
    model_args: Mapping[str, Any] = field(default_factory=dict)
    input_size: tuple[int, int, int] | None = None
    reason: str = ""


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper.

    Attributes:
        number: Its number.
        title: What it shows.
        rows: Its rows that can be built.
        macs_unit: Unit of its "FLOPs".
        convolutions: Whether its "FLOPs" are those of convolutions alone (CIFAR).
        left_out: What rows are missing here.
        note: What a reader must know of the table.
    """

    number: int
    title: str
    rows: tuple[PaperRow, ...]
    macs_unit: Literal["M", "B"] = "M"
    convolutions: bool = False
    left_out: str = ""
    note: str = ""

    def figures(self, row: PaperRow) -> dict[Quantity, Figure]:
        """The figures that the paper prints in a row."""
        printed: dict[Quantity, tuple[str | None, str]] = {
            "params": (row.params, "M"),
            "macs": (row.macs, self.macs_unit),
            "acts": (row.acts, "M"),
        }
        return {name: Figure(digits, unit) for name, (digits, unit) in printed.items() if digits}
