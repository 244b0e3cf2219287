"""Work in a forked child: a crash, an endless loop or a full memory ends the child alone."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def in_child(work: Callable[[], Record], timeout: float, memory: int) -> Record:
    """What ``work`` returns, computed in a fork of this process.

    A fork shares what is there already (PyTorch, a network) and costs next to nothing.

    Args:
        work: What to do; the record must be JSON.
        timeout: Seconds of CPU time; four times as long by the clock, for a busy machine.
        memory: Bytes of address space that it may take beyond what there is now.

    Returns:
        The record; or ``{"status": "timeout" | "crash" | "error", "reason": ...}``.
    """
    sys.stdout.flush()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)
        _work_and_leave(work, writing, timeout, memory)
    os.close(writing)
    answer, in_time = _read_all(reading, time.monotonic() + 4 * timeout)
    if not in_time:
        os.killpg(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not in_time or (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGXCPU):
        return {"status": "timeout", "reason": f"not done after {timeout:.0f} s"}
    if not answer:
        return {"status": "crash", "reason": f"the process died ({_how(status)})"}
    return json.loads(answer)


def _work_and_leave(work: Callable[[], Record], writing: int, timeout: float, memory: int) -> None:
    """In the child: work, answer, and end without the parent's clean-up."""
    try:
        seconds = int(timeout + time.process_time())
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        record: Mapping[str, Any] = work()
    except BaseException as error:
        traceback.print_exc(limit=-4)
        said = (str(error).strip().splitlines() or [""])[0]
        record = {"status": "error", "reason": f"{type(error).__name__}: {said}"[:300]}
    with os.fdopen(writing, "w") as stream:
        json.dump(record, stream)
    os._exit(0)


def _read_all(reading: int, deadline: float) -> tuple[str, bool]:
    """All that comes through the pipe, and whether its end came in time."""
    parts = []
    with os.fdopen(reading, "rb", buffering=0) as stream:
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([stream], [], [], left)[0]:
                break
            part = stream.read(65536)
            if not part:
                return b"".join(parts).decode(), True
            parts.append(part)
    return "", False


def _how(status: int) -> str:
    if os.WIFSIGNALED(status):
        return signal.Signals(os.WTERMSIG(status)).name
    return f"exit code {os.waitstatus_to_exitcode(status)}"
