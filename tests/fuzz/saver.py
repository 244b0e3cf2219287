"""A process that saves two networks in turn, again and again, until it is killed.

Started once (as a script), it forks a process for each line ``FOLDER`` on its standard input and
tells its number, so that many kills need PyTorch imported once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

import ghostify
from tests.fuzz.kills import networks


def _save_forever(folder: Path, start: int) -> None:
    both = networks()
    turn = start
    while True:
        ghostify.save(both[turn % 2], folder)
        turn += 1


def main() -> None:
    torch.set_num_threads(1)
    networks()
    for turn, line in enumerate(sys.stdin):
        child = os.fork()
        if not child:
            _save_forever(Path(line.strip()), turn)
        print(child, flush=True)
        os.waitpid(child, 0)
        print("gone", flush=True)


if __name__ == "__main__":
    main()
