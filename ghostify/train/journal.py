"""The metrics of a run, as CSV and as TensorBoard's events."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

from ghostify.files import explained, kind_of, make_folder, read_text, write_text
from ghostify.train.result import LogRow

METRICS = (
    "step", "epoch", "lr", "loss", "ce", "kd", "features", "images_per_second",
    "val_top1", "val_top5", "val_loss",
)  # fmt: skip


class Journal:
    """Writes rows; rows after the step that a run goes on from are dropped first.

    Args:
        folder: Where to; None for nowhere.
        step: The step that the run goes on from.
    """

    def __init__(self, folder: Path | None, step: int) -> None:
        self._file: Path | None = None
        self._events: Any = None
        if folder is None:
            return
        make_folder(folder)
        self._file = folder / "metrics.csv"
        kept = _rows_until(self._file, step) if step else []
        text = "\n".join(",".join(row) for row in [list(METRICS), *kept])
        write_text(self._file, text + "\n")
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            if not step:
                for old in folder.glob("events.out.tfevents.*"):
                    old.unlink()
            self._events = SummaryWriter(str(folder), purge_step=step + 1 if step else None)

    def write(self, row: LogRow) -> None:
        """Add a row."""
        if self._file is None:
            return
        values = _values(row)
        with explained(self._file):
            with self._file.open("a", newline="", encoding="utf-8") as stream:
                csv.writer(stream, lineterminator="\n").writerow(
                    ["" if values[name] is None else _short(values[name]) for name in METRICS]
                )
            if self._events is not None:
                for name in METRICS[1:]:
                    if values[name] is not None:
                        self._events.add_scalar(name, values[name], row.step)

    def close(self) -> None:
        """Write what is left to write."""
        if self._events is not None and self._file is not None:
            with explained(self._file.parent):
                self._events.close()


def _values(row: LogRow) -> dict[str, Any]:
    found = row.validation
    five = None if found is None or found.top5 is None else found.top5.percent
    return {
        **{name: getattr(row, name) for name in METRICS[:8]},
        "val_top1": None if found is None else found.top1.percent,
        "val_top5": five,
        "val_loss": None if found is None else found.loss,
    }


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _rows_until(file: Path, step: int) -> list[list[str]]:
    if kind_of(file) != "file":
        return []
    text = read_text(file, "start again, in another folder")
    rows = list(csv.reader(text.splitlines()))[1:]
    return [r for r in rows if len(r) == len(METRICS) and r[0].isdecimal() and int(r[0]) <= step]
