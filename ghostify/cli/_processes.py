"""Commands that several processes run at once: one of them speaks."""

from __future__ import annotations

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
