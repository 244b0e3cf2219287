"""What a run shows while it goes on."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from ghostify.train.accuracy import Evaluation, Share
from ghostify.train.board import Board
from ghostify.train.result import LogRow


def row(step: int, validation: Evaluation | None = None) -> LogRow:
    return LogRow(step, 40, step / 10, 0.01, 1.25, 2.5, None, 0.5, 100.0, 3725.0, validation)


def shown(terminal: bool, quiet: bool, rows: list[LogRow]) -> str:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=120)
    with Board(quiet, console) as board:
        for each in rows:
            board(each)
    return stream.getvalue()


def test_without_a_terminal_each_row_is_a_plain_line():
    first, second = shown(False, False, [row(10), row(20)]).splitlines()
    assert first == (
        "step 10/40  epoch 1.00  loss 1.2500  ce 2.5000  features 0.5000  lr 0.01  images/s 100  "
        "left 1:02:05"
    )
    assert second.startswith("step 20/40")


def test_in_a_terminal_there_is_a_table_with_the_accuracy():
    text = shown(True, False, [row(10, Evaluation(Share(45, 50), None, 50, 0.3))])
    assert "top-1" in text and "90.00" in text and "10/40" in text


def test_a_long_run_shows_its_last_rows():
    last = shown(True, False, [row(n) for n in range(1, 41)]).rpartition("step")[2]
    assert "40/40" in last and "29/40" in last and "28/40" not in last


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_is_quiet(terminal):
    assert shown(terminal, True, [row(1)]) == ""
