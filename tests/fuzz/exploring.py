"""How a property is explored: few fixed examples by default, many random ones in the slow run.

``GHOSTIFY_FUZZ_EXAMPLES`` says how many the slow run tries of each property (200), and
``GHOSTIFY_FUZZ_SEED`` where they begin (a new place each time if not given).
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

LONG = int(os.environ.get("GHOSTIFY_FUZZ_EXAMPLES", "200"))
SEED = os.environ.get("GHOSTIFY_FUZZ_SEED")

long_or_short = pytest.mark.parametrize(
    "long", [pytest.param(False, id="few"), pytest.param(True, id="many", marks=pytest.mark.slow)]
)
"""Makes two tests of one: ``few``, of the default suite, and ``many``, of the slow one."""


def explore(
    check: Callable[..., None],
    *strategies: st.SearchStrategy[Any],
    long: bool,
    few: int,
    shrink: bool = True,
) -> None:
    """Check a property on examples; a failing one is shrunk, told and raised.

    Args:
        check: Raises where the property does not hold.
        *strategies: Of its arguments.
        long: Whether to try many random examples, or a few that are the same each time.
        few: How many those are.
        shrink: Whether to look for the smallest example that fails.
    """
    wanted = settings(
        max_examples=LONG if long else few,
        phases=[Phase.generate, Phase.shrink] if shrink else [Phase.generate],
        derandomize=not long,
        deadline=None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )
    # `given` reads the signature, and wants one without defaults or stars.
    names = [f"argument{index}" for index in range(len(strategies))]
    scope: dict[str, Any] = {"check": check}
    exec(f"def example({', '.join(names)}): check({', '.join(names)})", scope)
    test = wanted(given(*strategies)(scope["example"]))
    (seed(int(SEED))(test) if long and SEED else test)()


class Hang(AssertionError):
    """Something took far longer than it may."""


@contextmanager
def at_most(seconds: int, gigabytes: float) -> Iterator[None]:
    """Raise inside when it takes longer or more memory: what never ends fails, and stops nobody."""

    def stop(signum: int, frame: Any) -> None:
        raise Hang(f"still running after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    statm = Path("/proc/self/statm")
    if statm.exists():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + int(gigabytes * 1e9), limits[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        signal.signal(signal.SIGALRM, before)
