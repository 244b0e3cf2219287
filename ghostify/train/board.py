"""The log of a run as it grows: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ghostify.train.result import LogRow

SHOWN = 12
"""Rows of the live table: the last ones."""


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


BOARD_COLUMNS: tuple[tuple[str, Callable[[LogRow], str]], ...] = (
    ("step", lambda row: f"{row.step}/{row.steps}"),
    ("epoch", lambda row: f"{row.epoch:.2f}"),
    ("loss", lambda row: f"{row.loss:.4f}"),
    ("ce", lambda row: _number(row.ce, ".4f")),
    ("kd", lambda row: _number(row.kd, ".4f")),
    ("features", lambda row: _number(row.features, ".4f")),
    ("lr", lambda row: f"{row.lr:.2g}"),
    ("top-1", lambda row: "" if row.validation is None else f"{row.validation.top1.percent:.2f}"),
    ("images/s", lambda row: f"{row.images_per_second:.0f}"),
    ("left", lambda row: _clock(row.seconds_left)),
)
"""Columns of the live table and their text; a new one is one more entry."""


class Board:
    """Shows the rows it is called with, on stderr.

    Args:
        quiet: Whether to show nothing.
        console: In place of stderr.
    """

    def __init__(self, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._rows: list[list[str]] = []
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
        cells = [show(row) for _, show in BOARD_COLUMNS]
        if not self._is_live:
            named = zip((name for name, _ in BOARD_COLUMNS), cells, strict=True)
            line = "  ".join(f"{name} {cell}" for name, cell in named if cell)
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        self._rows.append(cells)
        table = Table(*[name for name, _ in BOARD_COLUMNS], box=None, header_style="bold")
        for column in table.columns:
            column.justify = "right"
        for cells in self._rows[-SHOWN:]:
            table.add_row(*cells)
        self._live.update(table, refresh=True)

    def __exit__(self, *error: object) -> None:
        if self._is_live:
            self._live.stop()
