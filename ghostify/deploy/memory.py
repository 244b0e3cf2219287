"""The most memory that a network takes while it runs."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from ghostify.deploy.formats import FORMATS
from ghostify.deploy.program import Program
from ghostify.deploy.runtimes import Runtime, Way, file_of
from ghostify.deploy.timing import Work

MOST_SECONDS = 300


def peak_memory(runtime: Runtime, program: Program, way: Way, work: Work) -> int | None:
    """The most bytes that a prepared program takes; None where the machine doesn't tell.

    In PyTorch: its parameters and buffers, and the most that its allocator gives at once during a
    run. For a runtime of files: how far the resident memory of a process of its own grows while it
    opens the file and runs it.
    """
    if runtime.format is not None:
        return _growth(runtime.format.name, program, way)
    weights = _bytes_of(program.network)
    if any(tensor.is_cuda for tensor in program.tensors):
        return weights + _on_gpu(work)
    is_on_cpu = all(tensor.device.type == "cpu" for tensor in program.tensors)
    return weights + _allocated(work) if is_on_cpu else None


def _bytes_of(network: nn.Module) -> int:
    tensors = {id(t): t for t in (*network.parameters(), *network.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


def _on_gpu(work: Work) -> int:
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    work()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def _allocated(work: Work) -> int:
    """The peak of what is allocated and not yet freed, by the profiler's record of each."""
    with _quiet_errors(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        work()
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = (event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()))
    return max(accumulate(changes), default=0)


@contextmanager
def _quiet_errors() -> Iterator[None]:
    """Without what libraries write to standard error past Python, as some profilers do."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _growth(kind: str, program: Program, way: Way) -> int | None:
    inputs = way.folder / "inputs.pt"
    torch.save([tensor.contiguous() for tensor in program.tensors], inputs)
    path = file_of(FORMATS[kind], way.folder)
    command = [sys.executable, "-m", __name__, kind, str(path), str(inputs), str(way.threads)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=MOST_SECONDS, check=True
        )
        return int(done.stdout.split()[-1])
    except (subprocess.SubprocessError, OSError, ValueError, IndexError):
        return None


def _resident_peak() -> int:
    """The most that this process ever held; what it was started by does not count."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource  # no such file on macOS, where this counts bytes

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _run_and_tell(kind: str, path: str, inputs: str, threads: str) -> None:
    tensors = torch.load(inputs)
    for package in FORMATS[kind].packages[-1:]:
        importlib.import_module(package)
    before = _resident_peak()
    FORMATS[kind].open(Path(path), int(threads))(tensors)
    print(_resident_peak() - before)


if __name__ == "__main__":
    _run_and_tell(*sys.argv[1:])
