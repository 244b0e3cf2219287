"""The parts of a network's costs that a conversion is to leave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ghostify.errors import SettingsError
from ghostify.settings.base import check_number
from ghostify.settings.calibration import Calibration

SHORT_FORMS_OF_BUDGETS = {"target_macs": "macs", "target_params": "params"}
"""Options of a conversion that are its budgets."""


@dataclass(frozen=True)
class Budgets:
    """Parts of a network's costs to leave at most; None where one is not asked for.

    Attributes:
        macs: Part of the MACs.
        params: Part of the parameters.

    Raises:
        SettingsError: A value is no part.

    Example:
        >>> Budgets(params=0.5).asked
        {'params': 0.5}
    """

    macs: float | None = None
    params: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.asked.items():
            check_number(f"target_{name}", value, 0, 1)

    @property
    def asked(self) -> dict[str, float]:
        """Those that are given."""
        both = {"macs": self.macs, "params": self.params}
        return {name: value for name, value in both.items() if value is not None}

    @property
    def options(self) -> dict[str, Any]:
        """Those that are given, by the names of a conversion's options."""
        return {f"target_{name}": value for name, value in self.asked.items()}

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Budgets:
        """The budgets that a conversion's options mean."""
        return cls(**{SHORT_FORMS_OF_BUDGETS[name]: value for name, value in options.items()})

    def check(self, calibration: Calibration | None, is_beside_plan: bool, clock: Any) -> None:
        """Raise unless what a conversion is given beside budgets goes together with them.

        Args:
            calibration: What there is to judge by.
            is_beside_plan: Whether a plan is given, which says what is converted.
            clock: The clock, if there is one.

        Raises:
            SettingsError: Something doesn't.
        """
        if not self.asked:
            return
        names = ", ".join(f"target_{name}" for name in self.asked)
        if is_beside_plan:
            raise SettingsError(f"{names} given beside a plan: the plan says each layer's s.")
        if clock is not None and clock.target is None:
            raise SettingsError(
                f"{names} given beside runtime: give target_latency too, or leave the runtime."
            )
        if clock is None and calibration is None:
            raise SettingsError(
                f"{names} given without calibration: give images, calibration=FOLDER."
            )
        if clock is None and calibration is not None and calibration.is_data_free:
            raise SettingsError(f"{names}: a choice by it needs images: give calibration=FOLDER.")
