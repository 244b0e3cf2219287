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
from torch import Tensor, nn
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
class Fastest:
    """A program in the fastest of its forms.

    Attributes:
        work: What runs it once.
        program: The program.
        way: How it is run.
        form: What the form is called: its memory format, and whether it concatenates though it need
            not.
    """

    work: Work
    program: Program
    way: Way
    form: str


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

    def measure(
        self, programs: Mapping[str, Program], told: Told = _untold
    ) -> tuple[list[NetworkTime], dict[str, Fastest]]:
        """Whole networks beside the first one, and the forms in which they were fastest."""
        with tempfile.TemporaryDirectory() as folder:
            found: dict[str, Fastest] = {}
            for index, (name, program) in enumerate(programs.items()):
                with in_a_sentence(self.runtime, name):
                    found[name] = self.fastest(program, folder_inside(folder, index))
            timings = self.alternate({name: one.work for name, one in found.items()}, told)
            peaks = {
                name: peak_memory(self.runtime, one.program, one.way, one.work)
                for name, one in found.items()
            }
        return [self._row(n, found[n].form, timings[n], peaks[n]) for n in found], found

    def measure_parts(
        self,
        fastest: Mapping[str, Fastest],
        name: str,
        plans: Any,
        told: Told = _untold,
    ) -> tuple[list[PartTime], list[str]]:
        """Each converted part of one network beside the first network's, slowest first."""
        original = next(iter(fastest))
        found, left = parts_of(plans)
        before, after = (
            programs_of(fastest[who].program.network, fastest[who].program.args,
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
                        program, replace(fastest[who].way, folder=folder_inside(folder, index))
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

    def fastest(self, program: Program, folder: Path) -> Fastest:
        """A program in the fastest of its forms, and of the runtime's."""
        forms = {
            ", ".join(filter(None, (memory, name))): (one, Way(self.threads, memory, folder))
            for name, one in program.forms.items()
            for memory in self.runtime.forms
        }
        works = {form: self.runtime.prepare(*pair) for form, pair in forms.items()}
        form = next(iter(works))
        works[form]()
        if len(works) > 1:
            timings = alternate(works, seconds=0, precision=1, timer=self.timer)
            form = min(works, key=lambda form: timings[form].typical)
        return Fastest(works[form], *forms[form], form)

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

    def copied(network: nn.Module) -> nn.Module:
        return copy_network(network).to(device=device, dtype=dtype)

    other = None if program.with_concats is None else copied(program.with_concats)
    args = pytree.tree_map(move, program.args)
    return replace(program, network=copied(program.network), args=args, with_concats=other)


def folder_inside(folder: str, index: int) -> Path:
    """A folder inside another, for the files of one contestant."""
    path = Path(folder) / str(index)
    path.mkdir()
    return path
