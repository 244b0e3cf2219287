"""The metrics of a run, as CSV and as TensorBoard's events."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ghostify.files import explained, kind_of, make_folder, read_text, write_text
from ghostify.train.losses import NAMES
from ghostify.train.result import LogRow

METRICS = (
    "step", "epoch", "lr", "loss", "ce", "kd", "features", "images_per_second",
    "val_top1", "val_top5", "val_loss",
)  # fmt: skip
"""Columns of a run that tunes class scores."""


def own_columns(losses: Sequence[str], figures: Sequence[str]) -> tuple[str, ...]:
    """Columns of a run with losses of the caller's own, and the figures of its validations."""
    parts = [name for name in losses if name != "features"]
    return ("step", "epoch", "lr", "loss", *parts, "features", "images_per_second", *figures)


class Journal:
    """Writes rows; rows after the step that a run goes on from are dropped first.

    Args:
        folder: Where to; None for nowhere.
        step: The step that the run goes on from.
        columns: Of the table.
    """

    def __init__(self, folder: Path | None, step: int, columns: Sequence[str] = METRICS) -> None:
        self._columns = columns
        self._file: Path | None = None
        self._events: Any = None
        self.rows: list[dict[str, float]] = []
        """All rows of the run, before a resume too: their figures by column."""
        if folder is None:
            return
        make_folder(folder)
        self._file = folder / "metrics.csv"
        kept = _rows_until(self._file, step, len(columns)) if step else []
        self.rows = [_numbers(zip(columns, row, strict=True)) for row in kept]
        write_text(self._file, _as_csv([list(columns), *kept]))
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            if not step:
                for old in folder.glob("events.out.tfevents.*"):
                    old.unlink()
            self._events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, row: LogRow) -> None:
        """Add a row."""
        values = _values(row)
        self.rows.append({n: float(values[n]) for n in self._columns if values.get(n) is not None})
        if self._file is None:
            return
        with explained(self._file):
            with self._file.open("a", newline="", encoding="utf-8") as stream:
                csv.writer(stream, lineterminator="\n").writerow(
                    [_short(values.get(name)) for name in self._columns]
                )
            if self._events is not None:
                for name in self._columns[1:]:
                    if values.get(name) is not None:
                        self._events.add_scalar(name, values[name], row.step)

    def close(self) -> None:
        """Write what is left to write."""
        if self._events is not None and self._file is not None:
            with explained(self._file.parent):
                self._events.close()


def _values(row: LogRow) -> dict[str, Any]:
    losses = {name: getattr(row, name) for name in ("loss", *NAMES)} | dict(row.own)
    return {
        "step": row.step, "epoch": row.epoch, "lr": row.lr, **losses,
        "images_per_second": row.images_per_second,
        **({} if row.validation is None else row.validation.columns),
    }  # fmt: skip


def _numbers(row: Iterable[tuple[str, str]]) -> dict[str, float]:
    """The figures of a row of the file; what a person wrote into it is left out."""
    found = {}
    for name, text in row:
        with suppress(ValueError):
            found[name] = float(text)
    return found


def _short(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _as_csv(rows: list[list[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _rows_until(file: Path, step: int, columns: int) -> list[list[str]]:
    if kind_of(file) != "file":
        return []
    text = read_text(file, "start again, in another folder")
    rows = list(csv.reader(text.splitlines()))[1:]
    return [r for r in rows if len(r) == columns and r[0].isdecimal() and int(r[0]) <= step]
