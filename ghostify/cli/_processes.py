"""Commands that several processes run at once: one of them speaks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ghostify.errors import GhostifyError


@contextmanager
def one_speaks() -> Iterator[bool]:
    """Whether this process is the one that prints; what is wrong is said by it alone."""
    from ghostify.train.engine import is_first_process

    first = is_first_process()
    try:
        yield first
    except GhostifyError:
        if first:
            raise
        sys.exit(2)


def join_others() -> None:
    """Meet the other processes that torchrun started, where there are any."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from ghostify.train.engine import open_engine

        open_engine("cpu")
