"""The `ghostify` command, installed and in this process, and a folder that it saved."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import ghostify
from ghostify import cli


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, which is the current one."""
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


@pytest.fixture
def run(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Command]:
    """The command in this process (each start of the installed one costs seconds)."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*args: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["ghostify", *map(str, args)])
        capsys.readouterr()
        code: object = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
        text = capsys.readouterr()
        return Outcome(int(code or 0), text.out, text.err)

    yield call


@pytest.fixture
def installed(folder: Path) -> Command:
    """The installed command, as a user's shell runs it."""

    def call(*args: object, **env: str) -> Outcome:
        command = str(Path(sys.executable).with_name("ghostify"))
        # As a shell without a terminal has it, whatever this test run was started from.
        plain = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "TTY_COMPATIBLE"}}
        done = subprocess.run(
            [command, *map(str, args)],
            env={**plain, **env},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a converted ResNet-20; not to be changed."""
    converted = ghostify.convert("resnet20-cifar", s=2)
    return ghostify.save(converted, tmp_path_factory.mktemp("saved") / "out")


@pytest.fixture
def nets(folder: Path) -> Path:
    """A user's own file with factories."""
    file = folder / "nets.py"
    file.write_text(
        """
import warnings
from torch import nn

def build(width=16, classes=10):
    print("building", width)
    warnings.warn("not ghostify's business")
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, classes),
    )

def broken():
    raise KeyError("boom")

def number():
    return 5

def quits():
    raise SystemExit(7)

class Halt(BaseException):
    pass

def stops():
    raise Halt
"""
    )
    return file
