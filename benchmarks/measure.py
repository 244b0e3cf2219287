"""Measuring work on one core: CPU time in this process, peak memory in a fresh one."""

from __future__ import annotations

import gc
import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch

import ghostify

MB = 1e6


def one_core() -> None:
    """Let PyTorch use one thread."""
    torch.set_num_threads(1)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call: on one thread the wall time, without what other processes take."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def typical_seconds(work: Callable[[], Any], repeats: int, collector: bool = True) -> float:
    """Median CPU time of several calls, after one that doesn't count.

    Args:
        work: What to do.
        repeats: How often.
        collector: Whether Python's garbage collector may run meanwhile, as it does for users.
    """
    work()
    if not collector:
        gc.disable()
    try:
        return median(cpu_seconds(work) for _ in range(repeats))
    finally:
        gc.enable()


def alternating_seconds(works: Sequence[Callable[[], Any]], repeats: int) -> list[list[float]]:
    """CPU times of several pieces of work done in turn, so that all meet the same machine."""
    for work in works:
        work()
    rounds = [[cpu_seconds(work) for work in works] for _ in range(repeats)]
    return [list(times) for times in zip(*rounds, strict=True)]


def in_fresh_process(work: Callable[..., Any], *arguments: Any) -> Any:
    """What ``work`` returns in a Python that has done nothing before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def first_seconds(prepare: Callable[[], Any], work: Callable[[Any], Any]) -> float:
    """CPU time of the first call in a process; run it in a fresh one."""
    one_core()
    subject = prepare()
    return cpu_seconds(lambda: work(subject))


def peak_bytes(prepare: Callable[[], Any], work: Callable[[Any], int]) -> tuple[int, int]:
    """How far resident memory rises above its level before ``work``; run it in a fresh process.

    The level is read after ``prepare``, the peak is the kernel's own (VmHWM, set back at that
    moment): all of the process is in it, PyTorch's memory and Python's. Linux only.

    Returns:
        The rise, and what ``work`` returned.
    """
    one_core()
    subject = prepare()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = _status("VmRSS")
    result = work(subject)
    return _status("VmHWM") - before, result


def _status(key: str) -> int:
    """Bytes that Linux states for this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def machine(*packages: str, says_threads: bool = True) -> str:
    """What a reader must know of the run: the processor, versions, the day.

    Args:
        packages: Whose versions.
        says_threads: Whether to say that one thread was used; not where tables name their threads.
    """
    used = ", one thread used" if says_threads else ""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
    return ", ".join(
        [
            f"{_processor()}, {os.cpu_count()} cores{used}",
            f"Python {platform.python_version()}",
            f"ghostify {ghostify.__version__}",
            *versions,
            date.today().isoformat(),
        ]
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
