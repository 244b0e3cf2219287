"""What the commands write where."""

from __future__ import annotations

import io
import os
import pty
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

from ghostify.cli import _terminal
from ghostify.errors import GhostifyWarning, SettingsError
from ghostify.progress import Milestone


def in_a_terminal(*args: str) -> str:
    """What the installed command shows where its output is a terminal."""
    leader, follower = pty.openpty()
    command = [str(Path(sys.executable).with_name("ghostify")), *args]
    env = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100"}
    env.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=follower, stderr=follower, env=env) as process:
        os.close(follower)
        shown = b""
        while True:
            try:
                shown += os.read(leader, 65536)
            except OSError:  # the other side is closed
                break
    os.close(leader)
    assert process.returncode == 0
    return shown.decode()


def test_a_terminal_gets_bold_titles(folder):
    shown = in_a_terminal("convert", "resnet20-cifar")
    assert "\x1b[1mresnet20-cifar, c-ghost\x1b[0m" in shown


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def in_place_of_stderr(monkeypatch, stream):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def test_what_takes_long_shows_a_bar(monkeypatch):
    terminal = in_place_of_stderr(monkeypatch, Terminal())
    with _terminal.Steps() as step:
        step("pondering")
        time.sleep(1.3)
    assert "pondering" in terminal.getvalue()


def test_what_is_quick_shows_no_bar(monkeypatch):
    terminal = in_place_of_stderr(monkeypatch, Terminal())
    with _terminal.Steps() as step:
        step("pondering")
    assert terminal.getvalue() == ""


def test_quiet_shows_no_bar(monkeypatch):
    terminal = in_place_of_stderr(monkeypatch, Terminal())
    with _terminal.Steps(quiet=True) as step:
        step("pondering")
        time.sleep(1.2)
    assert terminal.getvalue() == ""


def test_a_pipe_gets_no_bar(monkeypatch):
    pipe = in_place_of_stderr(monkeypatch, io.StringIO())
    with _terminal.Steps() as step:
        step("pondering")
        time.sleep(1.2)
    assert pipe.getvalue() == ""


def test_a_report_on_stdout_shows_no_bar(monkeypatch):
    terminal = in_place_of_stderr(monkeypatch, Terminal())
    with _terminal.Steps(False, None, "-") as step:
        step("pondering")
        time.sleep(1.2)
    assert terminal.getvalue() == ""


def test_milestones_show_the_time_that_is_left(monkeypatch):
    terminal = in_place_of_stderr(monkeypatch, Terminal())
    monkeypatch.setenv("COLUMNS", "100")
    with _terminal.Steps() as step:
        for number in range(14):
            step(Milestone(f"pondering {number}", number / 100))
            time.sleep(0.1)
    shown = terminal.getvalue()
    assert "13%" in shown
    assert re.search(r"left \S*0:00:\d\d", shown)


def test_a_share_that_falls_begins_anew(monkeypatch):
    in_place_of_stderr(monkeypatch, Terminal())
    with _terminal.Steps() as step:
        step(Milestone("judging", 0.5))
        before = step._task
        step(Milestone("judging", 0.75))
        assert step._task == before
        step(Milestone("fitting", 0.0))
        assert step._task != before


def test_the_bar_leaves_stdout_as_it_was(monkeypatch):
    terminal = in_place_of_stderr(monkeypatch, Terminal())
    before = sys.stdout
    with _terminal.prints_to_stderr(), _terminal.Steps() as step:
        step("pondering")
        time.sleep(1.2)
        print("from the network's own code")
    assert sys.stdout is before
    assert "own code" in terminal.getvalue()


def test_ghostifys_warnings_are_a_line_and_others_are_not_shown(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        _terminal.warn_in_a_line()
        warnings.warn("mind the gap", GhostifyWarning, stacklevel=1)
        warnings.warn("something of torch's", UserWarning, stacklevel=1)
    assert capsys.readouterr().err == "ghostify: warning: mind the gap\n"


def test_a_long_sentence_is_not_wrapped(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "20")
    _terminal.complain("[red]a sentence[/red] that is longer than the terminal is wide")
    text = capsys.readouterr().err
    assert text == "ghostify: [red]a sentence[/red] that is longer than the terminal is wide\n"


def test_two_reports_need_two_places():
    with pytest.raises(SettingsError, match="--json and --markdown both go to -"):
        _terminal.check_report_targets("-", "-")
    _terminal.check_report_targets("-", None)
