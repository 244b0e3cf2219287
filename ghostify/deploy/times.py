"""Measured times as data, and as a document."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ghostify.deploy.times_page import benchmark_page
from ghostify.documents import Column, Document, Table, Writable, amount
from ghostify.documents.page import Page

SCHEMA = "ghostify.benchmark/2"


@dataclass(frozen=True)
class NetworkTime:
    """A network's time in one runtime.

    Attributes:
        network: Its name.
        runtime: The runtime's.
        batch: Number of images.
        threads: Number of threads.
        form: The memory format in which it was fastest, and ``concats`` where it was faster with
            those that it need not have; empty where there is one form alone.
        milliseconds: Median time of a run.
        spread: Half of the middle half's width, as a part of the median.
        ratio: Of the time to the first network's, median of the rounds.
        low: Lower end of the ratio's 95 % confidence interval.
        high: Upper end.
        rounds: Runs that were timed.
        peak_bytes: The most memory that it takes (see `peak_memory`); None where it isn't known.
    """

    network: str
    runtime: str
    batch: int
    threads: int
    form: str
    milliseconds: float
    spread: float
    ratio: float
    low: float
    high: float
    rounds: int
    peak_bytes: int | None = None


@dataclass(frozen=True)
class PartTime:
    """The time of a converted layer or stage, alone, beside the original's.

    Attributes:
        part: Name of the layer or stage.
        network: The converted network that it is in.
        runtime: The runtime.
        batch: Number of images.
        threads: Number of threads.
        before: Median milliseconds of a run of the original's.
        after: The same of the converted one.
        ratio: after / before, median of the rounds.
        low: Lower end of the ratio's 95 % confidence interval.
        high: Upper end.
        place: Its number in the order in which the network calls them, from 0.
    """

    part: str
    network: str
    runtime: str
    batch: int
    threads: int
    before: float
    after: float
    ratio: float
    low: float
    high: float
    place: int = 0

    @property
    def is_slower(self) -> bool:
        """Whether it got slower, beyond what chance explains."""
        return self.low > 1


PART_COLUMNS = (
    Column("layer or stage", lambda row: row.part, wraps=True),
    Column("before", lambda row: f"{row.before:.2f} ms"),
    Column("after", lambda row: f"{row.after:.2f} ms"),
    Column("ratio", lambda row: f"{row.ratio:.2f}"),
    Column("interval", lambda row: f"{row.low:.2f} to {row.high:.2f}", tiny=False),
    Column("", lambda row: "slower" if row.is_slower else ""),
)


@dataclass(frozen=True)
class Benchmark(Writable):
    """Networks' times beside each other, each in its inference form (see `fuse`).

    Attributes:
        rows: A row for each network, runtime, batch and number of threads.
        inputs: Shapes of the inputs, for one image.
        clock: ``"CPU time"``, ``"Wall time"`` or ``"GPU time"``.
        dtype: Type of the numbers.
        parts: The converted layers and stages alone, slowest first, where that was asked for.
        notes: What could not be measured, in sentences.
    """

    rows: tuple[NetworkTime, ...]
    inputs: str
    clock: str
    dtype: str = "float32"
    parts: tuple[PartTime, ...] = ()
    notes: tuple[str, ...] = ()

    def document(self) -> Document:
        """What it prints."""
        notes = (
            f"Input {self.inputs}, {self.dtype}. {self.clock} of a run, median of the rounds, in "
            "alternation; the ratio is to the first network, its interval holds 95 times of 100.",
            *(("Memory formats: each network in its faster one.",) if self._has_forms else ()),
            *(("Layers and stages alone, slowest first.",) if self.parts else ()),
            *self.notes,
        )
        return Document(
            title="Measured time",
            tables=(Table(NETWORK_COLUMNS, self.rows), *self._part_tables()),
            footnotes=notes,
        )

    def page(self) -> Page:
        """How much faster each network is, its time, and that of each layer and stage."""
        return benchmark_page(self)

    def _part_tables(self) -> list[Table]:
        groups: dict[tuple[Any, ...], list[PartTime]] = {}
        for row in self.parts:
            groups.setdefault((row.network, row.runtime, row.batch, row.threads), []).append(row)
        return [Table(PART_COLUMNS, rows, _title(*group)) for group, rows in groups.items()]

    @property
    def _has_forms(self) -> bool:
        return any(row.form for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {
            "schema": SCHEMA,
            "inputs": self.inputs,
            "clock": self.clock,
            "dtype": self.dtype,
            "rows": [asdict(row) for row in self.rows],
            "parts": [{**asdict(row), "slower": row.is_slower} for row in self.parts],
            "notes": list(self.notes),
        }


def _title(network: str, runtime: str, batch: int, threads: int) -> str:
    return f"{network}: {runtime}, batch {batch}, threads {threads}"


NETWORK_COLUMNS = (
    Column("network", lambda row: f"{row.network} ({row.form})" if row.form else row.network),
    Column("runtime", lambda row: row.runtime),
    Column("batch", lambda row: str(row.batch), tiny=False),
    Column("threads", lambda row: str(row.threads), narrow=False),
    Column("time", lambda row: f"{row.milliseconds:.1f} ms"),
    Column("spread", lambda row: f"{row.spread:.0%}", narrow=False),
    Column("ratio", lambda row: f"{row.ratio:.2f}"),
    Column("interval", lambda row: f"{row.low:.2f} to {row.high:.2f}", tiny=False),
    Column("memory", lambda row: _memory(row.peak_bytes), narrow=False),
)


def _memory(size: int | None) -> str:
    return "?" if size is None else f"{amount(size)}B"
