"""Ctrl-C and a polite kill, taken note of between two steps and not inside one."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any


class Interrupts:
    """Inside, the first SIGINT or SIGTERM is noted; a second one acts as ever.

    Example:
        >>> with Interrupts() as asked:
        ...     asked.to_stop
        False
    """

    def __init__(self) -> None:
        self.to_stop = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():  # else none may be handled
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.to_stop = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def __exit__(self, *error: object) -> None:
        self._restore()
