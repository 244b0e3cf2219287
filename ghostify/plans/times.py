"""The measured times that a plan was decided by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from ghostify.errors import GhostifyError, shown
from ghostify.settings.base import check_number, check_whole
from ghostify.settings.clock import MOST_THREADS, target_of


@dataclass(frozen=True)
class Conditions:
    """What times hold for.

    Attributes:
        runtime: Name of the runtime.
        version: Of the package that runs it.
        processor: Name of the processor or GPU.
        device: Kind of device: ``"cpu"``, ``"cuda"``, ``"mps"``.
        threads: Number of threads.
        batch: Number of images.
        dtype: Type of the numbers.
        form: Memory format; empty where the runtime chooses.
    """

    runtime: str
    version: str
    processor: str
    device: str = "cpu"
    threads: int = 1
    batch: int = 1
    dtype: str = "float32"
    form: str = ""

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.runtime} {self.version}, {self.processor}, {threads}, batch {self.batch}"

    @classmethod
    def from_dict(cls, data: Any) -> Conditions:
        """Conditions from what `dataclasses.asdict` gave.

        Raises:
            GhostifyError: The data is something else.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(data, Mapping) or set(data) != names:
            raise no_times(f"{shown(data)} does not say what they hold for")
        for name in names - {"threads", "batch"}:
            if not isinstance(data[name], str):
                raise no_times(f"{name} is {shown(data[name])}, and no text")
        check_whole("threads", data["threads"], 1, MOST_THREADS)
        check_whole("batch", data["batch"], 1)
        return cls(**data)


@dataclass(frozen=True)
class LayerTime:
    """The time of a layer or stage alone, in its inference form, in milliseconds of a run.

    Attributes:
        name: Of the layer or stage.
        before: Of the original's, with the norm and activation that belong to it.
        after: Of the new one, likewise; of what was left, the fastest that it could become.
    """

    name: str
    before: float
    after: float


@dataclass(frozen=True)
class MeasuredTimes:
    """The times that a plan was decided by.

    Attributes:
        conditions: What they hold for.
        layers: Of each layer and stage that was timed.
        before: Milliseconds of the whole original; None where it was not measured.
        after: Of the whole converted network; None where it was not measured.
        ratio: Converted / original, median of rounds in alternation; None likewise.
        low: Lower end of the ratio's 95 % confidence interval.
        high: Upper end.
        predicted: What the layers' times, added up, say of the ratio.
        target: What was asked for: a part of the time, or a text like ``"20ms"``; None where
            nothing was.
    """

    conditions: Conditions
    layers: tuple[LayerTime, ...] = ()
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    predicted: float | None = None
    target: float | str | None = None

    def describe(self) -> str:
        """The times of the whole network, in a sentence."""
        predicted = "" if self.predicted is None else f" (layers added up: {self.predicted:.2f})"
        asked = "" if self.target is None else f", asked for: {self.target}"
        if self.ratio is None:
            return f"time in {self.conditions}: not measured as a whole here{predicted}{asked}"
        return (
            f"time in {self.conditions}: {self.ratio:.2f} ({self.low:.2f} to {self.high:.2f}) of "
            f"the original's, measured end to end{predicted}{asked}"
        )

    def of(self, name: str) -> LayerTime | None:
        """The times of one layer or stage."""
        return next((item for item in self.layers if item.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` turns back into equal times."""
        data = dataclasses.asdict(self)
        return {**data, "layers": [dataclasses.asdict(item) for item in self.layers]}

    @classmethod
    def from_dict(cls, data: Any) -> MeasuredTimes:
        """Times from what `to_dict` gave.

        Raises:
            GhostifyError: The data is something else, or a value makes no sense.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(data, Mapping) or not set(data) <= set(names):
            raise no_times(f"they are {shown(data)}")
        for name in ("before", "after", "ratio", "low", "high", "predicted"):
            if data.get(name) is not None:
                check_number(name, data[name], 0, inf)
        rows = data.get("layers", ())
        if not isinstance(rows, list | tuple):
            raise no_times(f"layers is {shown(rows)}, and no list")
        layers = tuple(_layer(row) for row in rows)
        rest = {n: data.get(n) for n in names if n not in ("conditions", "layers", "target")}
        return cls(
            Conditions.from_dict(data.get("conditions")), layers, **rest,
            target=target_of(data.get("target")),
        )  # fmt: skip


def _layer(row: Any) -> LayerTime:
    if not isinstance(row, Mapping) or set(row) != {"name", "before", "after"}:
        raise no_times(f"layers holds {shown(row)}")
    if not isinstance(row["name"], str):
        raise no_times(f"layers holds {shown(row)}")
    for key in ("before", "after"):
        check_number(key, row[key], 0, inf)
    return LayerTime(**row)


def no_times(reason: str) -> GhostifyError:
    """The error for data that are no measured times."""
    return GhostifyError(f"These are no measured times ({reason}): give what was written.")
