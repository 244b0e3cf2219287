"""Commands that several processes run at once: one of them speaks."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ghostify.errors import GhostifyError

ALONE = 3.0
"""Seconds in which torchrun ends a process when another has failed: who is left failed alone."""


@contextmanager
def one_speaks() -> Iterator[bool]:
    """Whether this process is the one that prints; what is wrong for all is said by it alone."""
    from ghostify.train.engine import is_first_process

    first = is_first_process()
    try:
        yield first
    except GhostifyError as error:
        if first:
            raise
        time.sleep(ALONE)
        raise GhostifyError(f"Process {os.environ.get('RANK', '?')}: {error}") from error


def join_others() -> None:
    """Meet the other processes that torchrun started, where there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ghostify.train.engine import open_engine

        open_engine("cpu")
