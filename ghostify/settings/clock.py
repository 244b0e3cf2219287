"""The clock that a conversion is decided by: a runtime, and the time that is wanted in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from ghostify.errors import SettingsError, shown
from ghostify.settings.base import check_whole, is_number

SHORT_FORMS_OF_CLOCK = {
    "target_latency": "target",
    "runtime": "runtime",
    "threads": "threads",
    "batch": "batch",
    "device": "device",
    "latency_table": "table",
}
"""Options of a conversion that are fields of its clock."""

MOST_THREADS = 1024


@dataclass(frozen=True)
class Clock:
    """The runtime that layers are timed in, and the time that is wanted.

    Attributes:
        runtime: Name of the runtime.
        threads: Number of threads.
        batch: Number of images.
        device: Where PyTorch runs.
        target: Part of the original's time to take at most (0.6), or a time (``"20ms"``); None:
            what does not get faster is left, and no more is asked.
        table: File of measured times, read if it is there and written if not; None for the user's
            cache.

    Raises:
        SettingsError: A value makes no sense.

    Example:
        >>> Clock("onnxruntime", target="20ms").milliseconds_of(50.0)
        20.0
        >>> Clock("onnxruntime", target=0.6).milliseconds_of(50.0)
        30.0
    """

    runtime: str
    threads: int = 1
    batch: int = 1
    device: str = "cpu"
    target: float | str | None = None
    table: Path | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.runtime, str):
            raise SettingsError(f"runtime={shown(self.runtime)} is no name: give one.")
        check_whole("threads", self.threads, 1, MOST_THREADS)
        check_whole("batch", self.batch, 1)
        if self.table is not None and not isinstance(self.table, str | Path):
            raise SettingsError(f"latency_table={shown(self.table)} is no file: give its name.")
        object.__setattr__(self, "table", None if self.table is None else Path(self.table))
        object.__setattr__(self, "device", str(self.device))
        object.__setattr__(self, "target", target_of(self.target))

    def milliseconds_of(self, original: float) -> float:
        """The time that is wanted, where the original takes so many milliseconds."""
        if isinstance(self.target, str):
            return float(self.target.removesuffix("ms"))
        return original * (1.0 if self.target is None else self.target)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Clock | None:
        """The clock that a conversion's options mean; None where there is none.

        Args:
            options: Options by the names of `SHORT_FORMS_OF_CLOCK`, None where not given.

        Raises:
            SettingsError: There is no runtime, or a value makes no sense.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if not given:
            return None
        if "runtime" not in given:
            raise SettingsError(
                f"{', '.join(given)} given without runtime: name one, as runtime='onnxruntime'."
            )
        return cls(**{SHORT_FORMS_OF_CLOCK[name]: value for name, value in given.items()})


def target_of(value: Any) -> float | str | None:
    """A target as it is kept: a part, or a text of milliseconds.

    Raises:
        SettingsError: It is neither.

    Example:
        >>> target_of("0.6"), target_of("20 ms")
        (0.6, '20ms')
    """
    if value is None:
        return None
    text = value.strip().lower() if isinstance(value, str) else ""
    number = _number(text.removesuffix("ms")) if text else value
    if is_number(number) and 0 < number < (inf if text.endswith("ms") else 1):
        return f"{number:g}ms" if text.endswith("ms") else float(number)
    raise SettingsError(
        f"target_latency={shown(value)} makes no sense: give a part between 0 and 1, as 0.6, "
        "or a time, as 20ms."
    )


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return None
