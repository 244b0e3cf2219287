"""The log of a run as it grows: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ghostify.train.measured import Measured
from ghostify.train.result import LogRow

SHOWN = 12
"""Rows of the live table: the last ones."""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def cells_of(row: LogRow) -> dict[str, str]:
    """The text of each column of a row; empty where it has nothing to say."""
    return {
        "step": f"{row.step}/{row.steps}",
        "epoch": f"{row.epoch:.2f}",
        "loss": f"{row.loss:.4f}",
        **_losses(row),
        "features": _number(row.features, ".4f"),
        "lr": f"{row.lr:.2g}",
        **_validation(row),
        "images/s": f"{row.images_per_second:.0f}",
        "left": _clock(row.seconds_left),
    }


def _losses(row: LogRow) -> dict[str, str]:
    if row.own:
        return {name: f"{value:.4f}" for name, value in row.own.items()}
    return {"ce": _number(row.ce, ".4f"), "kd": _number(row.kd, ".4f")}


def _validation(row: LogRow) -> dict[str, str]:
    found = row.validation
    if isinstance(found, Measured):
        return {name: f"{value:.4f}" for name, value in found.figures.items()}
    if row.own:
        return {}
    return {"top-1": "" if found is None else f"{found.top1.percent:.2f}"}


class Board:
    """Shows the rows it is called with, on stderr.

    Args:
        quiet: Whether to show nothing.
        console: In place of stderr.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._rows: list[dict[str, str]] = []
        self._live = Live(console=self._console, auto_refresh=False)

    def __enter__(self) -> Board:
        if self._is_live:
            self._live.start()
        return self

    @property
    def _is_live(self) -> bool:
        return not self._quiet and self._console.is_terminal

    def __call__(self, row: LogRow) -> None:
        """Show a row."""
        if self._quiet:
            return
        cells = cells_of(row)
        if not self._is_live:
            line = "  ".join(f"{name} {cell}" for name, cell in cells.items() if cell)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        self._rows.append(cells)
        # The row with the most columns names all: a validation's are in some rows only.
        widest: dict[str, str] = max(self._rows, key=len)
        names = list(widest)
        table = Table(*names, box=None, header_style="bold")
        for column in table.columns:
            column.justify = "right"
        for known in self._rows[-SHOWN:]:
            table.add_row(*(known.get(name, "") for name in names))
        self._live.update(table, refresh=True)

    def __exit__(self, *error: object) -> None:
        if self._is_live:
            self._live.stop()
