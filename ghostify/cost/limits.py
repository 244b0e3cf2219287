"""How much time and memory one run for real may take."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

SECONDS = 300.0
"""For all runs of one count together."""

UNTOLD = 4 * 2**30
"""Bytes that are taken to be free where the system doesn't tell."""


class TooBig(RuntimeError):
    """A real run would need more time or memory than there is."""


class Limits:
    """Limits that begin to count when they are made.

    Args:
        seconds: Until a run is stopped.
        free: Bytes of free memory; None to ask the system each time.
    """

    def __init__(self, seconds: float = SECONDS, free: int | None = None) -> None:
        self._seconds, self._free = seconds, free
        self._end = time.monotonic() + seconds

    def check_time(self) -> None:
        """Raise `TooBig` where time is used up."""
        if time.monotonic() > self._end:
            raise TooBig(f"a run for real takes over {self._seconds:g} seconds")

    def check_room(self, tensors: Iterable[Tensor], what: str) -> None:
        """Raise `TooBig` where tensors of these shapes don't fit into the computer's memory."""
        wanted = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if wanted < 2**20:
            return
        free = _free_bytes() if self._free is None else self._free
        if wanted > free:
            raise TooBig(
                f"{what} would take {wanted / 1e9:.1f} GB, and {free / 1e9:.1f} GB is free"
            )


def _free_bytes() -> int:
    """Free memory, that of the container where it has less."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, KeyError):  # another system
        return UNTOLD
    try:
        group = Path("/sys/fs/cgroup")
        most, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return max(0, min(free, most - used + int(stat["inactive_file"])))
    except (OSError, ValueError, KeyError):  # no container, or none with a limit
        return free
