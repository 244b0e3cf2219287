"""Saves that are killed at any moment, and what must be there afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ghostify
from ghostify.saving.card import CARD
from ghostify.saving.folder import RECIPE
from tests.fuzz.files import converted, tiny
from tests.fuzz.state import same_bits


@cache
def networks() -> tuple[nn.Module, nn.Module]:
    """Two conversions of the tiny network, their weights not the same."""
    one, other = converted("c-ghost"), converted("cg-ghost")
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    return one, other


class Saver:
    """A process to kill; see ``saver.py``."""

    def __enter__(self) -> Saver:
        root = str(Path(ghostify.__file__).parents[1])
        tests = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, tests, os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("saver.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
        return self

    def __exit__(self, *error: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def kill_after(self, seconds: float, folder: Path) -> None:
        """Let it save into a folder, and kill it (-9) after a while."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(folder, file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
        assert self.process.stdout.readline() == "gone\n"


def check_whole(folder: Path) -> None:
    """The folder holds one of the networks whole, or none yet; and the next save works."""
    if (folder / RECIPE).exists():
        state = ghostify.load(folder, tiny()).state_dict()
        assert any(same_bits(dict(state), dict(net.state_dict())) for net in networks())
    ghostify.save(networks()[0], folder)
    loaded = ghostify.load(folder, tiny()).state_dict()
    assert same_bits(dict(loaded), dict(networks()[0].state_dict()))


def left_over(folder: Path) -> list[str]:
    """What lies in a saved folder beside the recipe and one file of weights."""
    weights = sorted(folder.glob("model-*.safetensors"))
    known = {RECIPE, CARD, *(path.name for path in weights[:1])}
    return sorted(path.name for path in folder.iterdir() if path.name not in known)
