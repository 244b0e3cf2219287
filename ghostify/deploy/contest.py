"""A contest of networks in one runtime: each in its fastest form, in alternation."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ghostify.deploy.memory import peak_memory
from ghostify.deploy.parts import parts_of, programs_of
from ghostify.deploy.program import Program
from ghostify.deploy.runtimes import Runtime, Way
from ghostify.deploy.times import NetworkTime, PartTime
from ghostify.deploy.timing import (
    Timer,
    Timing,
    Work,
    alternate,
    timed_by,
    timed_by_events,
    timed_on_mps,
    timed_when_idle,
)
from ghostify.errors import GhostifyError, ModelError, first_line
from ghostify.graph.meta_copy import copy_network

Told = Callable[[float], None]
"""Told which part of a measurement is behind."""


def _untold(_: float) -> None:
    pass


@dataclass(frozen=True)
class Contest:
    """What holds for contestants in one runtime.

    Attributes:
        runtime: The runtime.
        batch: Number of images.
        threads: Number of threads.
        seconds: Most time for the rounds.
        precision: The rounds end earlier where each ratio is known so well.
        timer: What tells the time of a run.
    """

    runtime: Runtime
    batch: int
    threads: int
    seconds: float
    precision: float
    timer: Timer

    def measure(self, programs: Mapping[str, Program], told: Told = _untold) -> list[NetworkTime]:
        """Whole networks beside the first one."""
        with tempfile.TemporaryDirectory() as folder:
            works: dict[str, Work] = {}
            ways: dict[str, Way] = {}
            for index, (name, program) in enumerate(programs.items()):
                with in_a_sentence(self.runtime, name):
                    works[name], ways[name] = self.fastest(program, folder_inside(folder, index))
            timings = self.alternate(works, told)
            peaks = {n: peak_memory(self.runtime, programs[n], ways[n], works[n]) for n in works}
        return [self._row(n, ways[n].form, timings[n], peaks[n]) for n in works]

    def measure_parts(
        self,
        programs: Mapping[str, Program],
        name: str,
        plans: Any,
        form: Mapping[str, str],
        told: Told = _untold,
    ) -> tuple[list[PartTime], list[str]]:
        """Each converted part of one network beside the first network's, slowest first."""
        original = next(iter(programs))
        found, left = parts_of(plans)
        before, after = (
            programs_of(programs[who].network, programs[who].args,
                        {part: own[side] for part, own in found.items()})
            for who, side in ((original, "before"), (name, "after"))
        )  # fmt: skip
        both = [part for part in after if part in before]
        left += [part for part in found if part not in both]
        each = replace(self, seconds=self.seconds / max(len(both), 1))
        rows = []
        for place, part in enumerate(both):
            told(place / len(both))
            with tempfile.TemporaryDirectory() as folder:
                works = {
                    side: self.runtime.prepare(
                        program, Way(self.threads, form[who], folder_inside(folder, index))
                    )
                    for index, (side, who, program) in enumerate(
                        (("before", original, before[part]), ("after", name, after[part]))
                    )
                }
                timings = each.alternate(works)
            rows.append(self._part_row(part, name, timings, place))
        rows.sort(key=lambda row: -row.after)
        return rows, [f"{part} of {name} could not be measured alone." for part in left]

    def alternate(self, works: Mapping[str, Work], told: Told = _untold) -> dict[str, Timing]:
        """Time some works in turn."""
        return alternate(
            works, seconds=self.seconds, precision=self.precision, timer=self.timer, told=told
        )

    def fastest(self, program: Program, folder: Path) -> tuple[Work, Way]:
        """A program in the fastest of the runtime's forms."""
        ways = {form: Way(self.threads, form, folder) for form in self.runtime.forms}
        works = {form: self.runtime.prepare(program, way) for form, way in ways.items()}
        form = next(iter(works))
        works[form]()
        if len(works) > 1:
            timings = alternate(works, seconds=0, precision=1, timer=self.timer)
            form = min(works, key=lambda form: timings[form].typical)
        return works[form], ways[form]

    def _row(self, name: str, form: str, timing: Timing, peak: int | None) -> NetworkTime:
        return NetworkTime(
            name, self.runtime.name, self.batch, self.threads, form, timing.typical * 1e3,
            timing.spread, timing.ratio, timing.low, timing.high, len(timing.seconds), peak,
        )  # fmt: skip

    def _part_row(
        self, part: str, name: str, timings: Mapping[str, Timing], place: int
    ) -> PartTime:
        before, after = timings["before"], timings["after"]
        return PartTime(
            part, name, self.runtime.name, self.batch, self.threads, before.typical * 1e3,
            after.typical * 1e3, after.ratio, after.low, after.high, place,
        )  # fmt: skip


@contextmanager
def in_a_sentence(runtime: Runtime, name: str) -> Iterator[None]:
    """Whatever a runtime raises becomes one sentence."""
    try:
        yield
    except GhostifyError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        raise ModelError(
            f"{runtime.name} can't run {name} ({reason}): choose another runtime or batch."
        ) from error


def timer_for(device: torch.device, threads: int) -> Timer:
    """What tells the time on a device: CPU time of one thread, else wall time, or the GPU's own."""
    if device.type != "cpu":
        return timed_by_events if device.type == "cuda" else timed_on_mps
    return timed_by(time.process_time) if threads == 1 else timed_when_idle


def moved(program: Program, device: torch.device, dtype: torch.dtype | None) -> Program:
    """A copy of a program on a device, its floating-point numbers of a type."""

    def move(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return leaf.to(device, dtype if leaf.dtype.is_floating_point else None)

    network = copy_network(program.network).to(device=device, dtype=dtype)
    return replace(program, network=network, args=pytree.tree_map(move, program.args))


def folder_inside(folder: str, index: int) -> Path:
    """A folder inside another, for the files of one contestant."""
    path = Path(folder) / str(index)
    path.mkdir()
    return path
