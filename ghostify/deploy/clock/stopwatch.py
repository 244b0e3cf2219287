"""A stopwatch for one network: it whole beside its conversions, and layers in their forms."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from ghostify.deploy.clock.forms import TimedLayer, as_fitted
from ghostify.deploy.clock.table import LEFT, Forms
from ghostify.deploy.contest import Contest, Fastest, folder_inside, in_a_sentence, moved, timer_for
from ghostify.deploy.formats import named
from ghostify.deploy.machine import device_of, processor_name
from ghostify.deploy.program import Program, example_arguments, with_batch
from ghostify.deploy.runtimes import RUNTIMES, Way, dtype_name
from ghostify.deploy.timing import Timing, Work
from ghostify.distributed import processes
from ghostify.errors import SettingsError
from ghostify.graph.inputs import ExampleInputs, dtype_of
from ghostify.graph.meta_copy import copy_network
from ghostify.plans import Conditions
from ghostify.progress import Milestone, Progress
from ghostify.settings import Clock

LAYER_SECONDS = 0.3
"""Most time for the rounds of one layer in all its forms."""

NETWORK_SECONDS = 15.0
"""Most time for the rounds of two whole networks."""

PRECISION = 0.01
"""How well the ratio of whole networks is to be known."""

MOST_NUMBERS = 2**26
"""In the programs that are written together: a file of ONNX ends at 2 GB."""

MOST_TOGETHER = 60
"""Programs that are written together."""

Forming = Mapping[str, Callable[[], Program]]
"""A layer's programs by form, each built when it is asked for."""


class Stopwatch:
    """What measures one network in one runtime on this machine; a context, for its files.

    Args:
        network: The original; it is not changed.
        clock: The runtime, and how it runs.
        example_inputs: What the network takes; worked out if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        is_fitted: Whether a warm start will follow, which gives ghosts an order of their own.

    Attributes:
        network: A copy of the original in eval mode.
        is_fitted: Whether conversions are measured as a warm start leaves them.
        args: What it takes, with the clock's number of images.
        contest: What holds for all that is measured.

    Raises:
        SettingsError: There is no such runtime, or it is not installed.
        ModelError: The network can't be run.
    """

    def __init__(
        self,
        network: nn.Module,
        clock: Clock,
        example_inputs: ExampleInputs | None = None,
        input_size: Sequence[int] | None = None,
        is_fitted: bool = False,
    ) -> None:
        self.is_fitted = is_fitted
        if processes()[1] > 1:  # each would measure, and decide, something else
            raise SettingsError(
                "runtime asks for times, and several processes run: convert in one."
            )
        runtime, self.device = named("runtime", clock.runtime, RUNTIMES), device_of(clock.device)
        self.dtype = dtype_of(network)
        runtime.require(self.device, self.dtype if runtime.format is not None else None)
        self.network = copy_network(network).eval()
        given = example_arguments(self.network, example_inputs, input_size)
        self.args = with_batch(given, clock.batch)
        self.contest = Contest(
            runtime, clock.batch, clock.threads, NETWORK_SECONDS, PRECISION,
            timer_for(self.device, clock.threads),
        )  # fmt: skip
        self._stack = ExitStack()
        self._original: Fastest | None = None
        self.seconds: float | None = None

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(self, *_: object) -> None:
        self._original = None
        self._stack.close()

    def conditions(self, form: str = "") -> Conditions:
        """What times that are measured here hold for."""
        runtime = self.contest.runtime
        return Conditions(
            runtime.name, runtime.version, processor_name(self.device), self.device.type,
            self.contest.threads, self.contest.batch, dtype_name(self.dtype), form,
        )  # fmt: skip

    def original(self) -> tuple[float, str]:
        """Milliseconds of the original, and the memory format in which it was fastest."""
        prepared = self._prepared()
        if self.seconds is None:
            timings = replace(self.contest, seconds=0).alternate({"original": prepared.work})
            self.seconds = timings["original"].typical
        return self.seconds * 1e3, prepared.way.form

    def as_it_will_be(self, converted: nn.Module) -> nn.Module:
        """A copy of a conversion, in eval mode, as it will be run."""
        made = copy_network(converted).eval()
        return as_fitted(made) if self.is_fitted else made

    def beside_original(self, converted: nn.Module) -> tuple[Timing, Timing]:
        """Times of the original and of a conversion, in alternation."""
        first = self._prepared()
        with tempfile.TemporaryDirectory() as folder:
            second = self._prepare(self.as_it_will_be(converted), Path(folder))
            timings = self.contest.alternate({"before": first.work, "after": second.work})
        self.seconds = timings["before"].typical
        return timings["before"], timings["after"]

    def _prepared(self) -> Fastest:
        if self._original is None:
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            self._original = self._prepare(self.network, folder)
        return self._original

    def inference_form(self, network: nn.Module) -> nn.Module:
        """The copy of a network that the runtime runs fastest on the device."""
        is_on_cpu = self.device.type == "cpu"
        return self.contest.runtime.inference_form(network, concat=not is_on_cpu)

    def _prepare(self, network: nn.Module, folder: Path) -> Fastest:
        program = self.contest.runtime.program(network, self.args, self.device)
        program = moved(program, self.device, None)
        with in_a_sentence(self.contest.runtime, "the network"):
            return self.contest.fastest(program, folder)

    def layers(
        self, wanted: Sequence[tuple[TimedLayer, Forming]], form: str, progress: Progress
    ) -> dict[str, Forms]:
        """Times of layers in their forms, by their signatures; what can't be run is left out.

        Args:
            wanted: Layers of different signatures, and the programs of each; `LEFT` among them.
            form: Memory format.
            progress: Told what is done now.
        """
        found: dict[str, Forms] = {}
        groups = self._groups(wanted)
        done, total = 0, sum(map(len, groups))
        for group in groups:
            progress(Milestone(f"writing {group[0].layer.name}", done / total))
            with tempfile.TemporaryDirectory() as folder:
                for one, works in self._works(group, form, folder):
                    progress(Milestone(f"timing {one.layer.name}", done / total))
                    done += 1
                    with suppress(Exception):  # a runtime may fail in any way
                        found[one.layer.signature] = self._time(works)
        return found

    def _time(self, works: Mapping[str, Work]) -> Forms:
        timings = replace(self.contest, seconds=LAYER_SECONDS, precision=0.02).alternate(works)
        left = timings[LEFT].typical * 1e3
        return {name: left * timing.ratio for name, timing in timings.items()}

    def _groups(self, wanted: Sequence[tuple[TimedLayer, Forming]]) -> list[list[_Built]]:
        """Layers that are written together."""
        groups: list[list[_Built]] = [[]]
        numbers = count = 0
        for layer, forming in wanted:
            programs = {}
            for name, build in forming.items():
                with suppress(Exception):  # what can't be built can't be chosen
                    programs[name] = moved(build(), self.device, None)
            if LEFT not in programs:
                continue
            size = sum(p.numel() for each in programs.values() for p in each.network.parameters())
            numbers, count = numbers + size, count + len(programs)
            if groups[-1] and (numbers > MOST_NUMBERS or count > MOST_TOGETHER):
                groups.append([])
                numbers, count = size, len(programs)
            groups[-1].append(_Built(layer, programs))
        return [group for group in groups if group]

    def _works(
        self, group: Sequence[_Built], form: str, folder: str
    ) -> list[tuple[_Built, dict[str, Work]]]:
        programs = [program for one in group for program in one.programs.values()]
        ways = [
            Way(self.contest.threads, form, folder_inside(folder, index))
            for index in range(len(programs))
        ]
        try:
            works = iter(self.contest.runtime.prepare_all(programs, ways))
        except Exception:
            if len(group) == 1:
                return []
            return [pair for one in group for pair in self._alone(one, form)]
        return [(one, {name: next(works) for name in one.programs}) for one in group]

    def _alone(self, one: _Built, form: str) -> list[tuple[_Built, dict[str, Work]]]:
        """A layer that is not written with others: one of them can't be written at all."""
        folder = self._stack.enter_context(tempfile.TemporaryDirectory())
        return self._works([one], form, folder)


@dataclass(frozen=True)
class _Built:
    layer: TimedLayer
    programs: Mapping[str, Program]
