"""Saves killed at random moments: a whole network is there, and the next save works."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.exploring import LONG, long_or_short
from tests.fuzz.kills import Saver, check_whole, left_over, networks


@long_or_short
@pytest.mark.parametrize("fresh", [True, False], ids=["new folder", "same folder"])
def test_a_killed_save_leaves_a_whole_network(tmp_path: Path, long: bool, fresh: bool) -> None:
    networks()
    with Saver() as saver:
        for index in range(LONG if long else 4):
            folder = tmp_path / (f"out{index}" if fresh else "out")
            saver.kill_after(random.uniform(0, 0.03), folder)
            if folder.exists():
                check_whole(folder)


@long_or_short
def test_nothing_is_left_of_killed_saves(tmp_path: Path, long: bool) -> None:
    folder = tmp_path / "out"
    with Saver() as saver:
        for _ in range(LONG if long else 4):
            saver.kill_after(random.uniform(0, 0.03), folder)
    check_whole(folder)
    assert left_over(folder) == []
