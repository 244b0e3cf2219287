"""The measured time of networks beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from ghostify.deploy.formats import named
from ghostify.deploy.program import Program, example_arguments, with_batch
from ghostify.deploy.runtimes import RUNTIMES, Prepared, Runtime
from ghostify.deploy.timing import Timing, alternate
from ghostify.documents import Document, Table, Writable, plain_columns
from ghostify.errors import ModelError, SettingsError
from ghostify.graph.inputs import ExampleInputs
from ghostify.graph.meta_copy import copy_network
from ghostify.numerics.random_state import keep_random_state
from ghostify.saving import build, network_of
from ghostify.saving.history import history_of, name_of

SCHEMA = "ghostify.benchmark/1"
Progress = Callable[[str], None]


@dataclass(frozen=True)
class NetworkTime:
    """A network's time in one runtime.

    Attributes:
        network: Its name.
        runtime: The runtime's.
        batch: Number of images.
        threads: Number of threads.
        form: The memory format in which it was fastest; empty where there is one alone.
        milliseconds: Median time of a run.
        spread: Half of the middle half's width, as a part of the median.
        ratio: Of the time to the first network's, median of the rounds.
        low: Lower end of the ratio's 95 % confidence interval.
        high: Upper end.
        rounds: Runs that were timed.
    """

    network: str
    runtime: str
    batch: int
    threads: int
    form: str
    milliseconds: float
    spread: float
    ratio: float
    low: float
    high: float
    rounds: int


@dataclass(frozen=True)
class Benchmark(Writable):
    """Networks' times beside each other, each in its inference form (see `fuse`).

    Attributes:
        rows: A row for each network, runtime, batch and number of threads.
        inputs: Shapes of the inputs, for one image.
        clock: ``"CPU time"`` or ``"wall time"``.
    """

    rows: tuple[NetworkTime, ...]
    inputs: str
    clock: str

    def document(self) -> Document:
        """What it prints."""
        titles = ("network", "runtime", "batch", "threads", "time", "spread", "ratio", "interval")
        rows = [_cells(row) for row in self.rows]
        notes = (
            f"Input {self.inputs}. {self.clock} of a run, median of the rounds, in alternation; "
            "the ratio is to the first network, its interval holds 95 times of 100.",
            *(("Memory formats: each network in its faster one.",) if self._has_forms else ()),
        )
        return Document(
            title="NetworkTime time", tables=(Table(plain_columns(*titles), rows),), footnotes=notes
        )

    @property
    def _has_forms(self) -> bool:
        return any(row.form for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        rows = [asdict(row) for row in self.rows]
        return {"schema": SCHEMA, "inputs": self.inputs, "clock": self.clock, "rows": rows}


@keep_random_state()
def benchmark(
    *models: nn.Module | str,
    runtime: str | Sequence[str] = "eager",
    batch: int | Sequence[int] = 1,
    threads: int | Sequence[int] = 1,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    seconds: float = 30.0,
    precision: float = 0.02,
    progress: Progress = lambda _: None,
) -> Benchmark:
    """Measure the time of networks, each in its inference form, in alternation.

    One saved conversion alone is compared with its original, if something is known to build it.

    Args:
        *models: Networks, or names of some; the first is what the others are compared with.
        runtime: ``"eager"``, ``"compile"``, ``"onnxruntime"``, ``"openvino"``, ``"aoti"``,
            ``"executorch"``, ``"litert"``; one or several.
        batch: Number of images, or several.
        threads: Number of threads, or several. With one, CPU time is measured: the wall time
            without what other processes take.
        example_inputs: What the networks take; worked out from the first if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        device: Where PyTorch runs them.
        seconds: Most time for the rounds of one runtime, batch and number of threads.
        precision: The rounds end earlier where each ratio is known so well, as a part of itself.
        progress: Told what is done now.

    Raises:
        SettingsError: There is no such runtime, or it is not installed.
        ModelError: A network can't be run, or the runtime can't hold it.

    Example:
        >>> import ghostify
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
        >>> found = benchmark(net, ghostify.convert(net), input_size=(3, 32, 32), seconds=0)
        >>> [row.batch for row in found.rows]
        [1, 1]
    """
    runtimes = [named("runtime", name, RUNTIMES) for name in _several(runtime)]
    for chosen in runtimes:
        chosen.require()
    batches, numbers = _several(batch), _several(threads)
    _check_threads(numbers)
    networks = _contestants(models)
    networks = {name: network.to(device) for name, network in networks.items()}
    args = example_arguments(next(iter(networks.values())), example_inputs, input_size)
    rows: list[NetworkTime] = []
    for chosen in runtimes:
        for count in numbers:
            for size in batches:
                programs = {
                    name: Program(network, with_batch(args, size))
                    for name, network in networks.items()
                }
                progress(f"{chosen.name}, batch {size}, {count} threads")
                rows += _measure(programs, chosen, count, size, seconds, precision)
    is_cpu = set(numbers) == {1} and torch.device(device).type == "cpu"
    shapes = ", ".join("x".join(map(str, t.shape[1:])) for t in Program(nn.Module(), args).tensors)
    return Benchmark(tuple(rows), shapes, "CPU time" if is_cpu else "Wall time")


def _measure(
    programs: Mapping[str, Program],
    runtime: Runtime,
    threads: int,
    batch: int,
    seconds: float,
    precision: float,
) -> list[NetworkTime]:
    is_cpu = threads == 1 and all(t.device.type == "cpu" for p in programs.values()
                                  for t in p.tensors)  # fmt: skip
    clock = time.process_time if is_cpu else time.perf_counter
    chosen = {
        name: _fastest(runtime.prepare(program, threads), clock)
        for name, program in programs.items()
    }
    works = {name: prepared.run for name, prepared in chosen.items()}
    timings = alternate(works, seconds=seconds, precision=precision, clock=clock)
    return [
        _measured(name, runtime.name, batch, threads, chosen[name].form, timing)
        for name, timing in timings.items()
    ]


def _measured(
    name: str, runtime: str, batch: int, threads: int, form: str, timing: Timing
) -> NetworkTime:
    return NetworkTime(
        name, runtime, batch, threads, form, timing.typical * 1e3, timing.spread,
        timing.ratio, timing.low, timing.high, len(timing.seconds),
    )  # fmt: skip


def _fastest(ways: list[Prepared], clock: Callable[[], float]) -> Prepared:
    """The fastest of several ways to run a network."""
    if len(ways) == 1:
        return ways[0]
    works = {prepared.form: prepared.run for prepared in ways}
    timings = alternate(works, seconds=0, precision=1, clock=clock)
    return min(ways, key=lambda prepared: timings[prepared.form].typical)


def _contestants(models: Sequence[nn.Module | str]) -> dict[str, nn.Module]:
    """Networks in eval mode by distinct names, the original of a lone conversion before it."""
    if not models:
        raise SettingsError("benchmark needs a network: give one, or several.")
    networks = [network_of(model) for model in models]
    if len(networks) == 1 and history_of(networks[0]).plans:
        source = history_of(networks[0]).source
        if source is None:
            raise ModelError(
                "What the network was converted from is not known: give the original before it."
            )
        networks.insert(0, build(source.name, source.model_args))
    contestants: dict[str, nn.Module] = {}
    for network in networks:
        name = name_of(network) + (", converted" if history_of(network).plans else "")
        while name in contestants:
            name += "'"
        contestants[name] = copy_network(network).eval()
    return contestants


def _several(value: Any) -> list[Any]:
    return [value] if isinstance(value, str | int) else list(value)


def _check_threads(numbers: Sequence[Any]) -> None:
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= 1024:
            raise SettingsError(f"threads={number!r} makes no sense: give a number from 1.")


def _cells(row: NetworkTime) -> list[str]:
    return [
        f"{row.network} ({row.form})" if row.form else row.network,
        row.runtime,
        str(row.batch),
        str(row.threads),
        f"{row.milliseconds:.1f} ms",
        f"{row.spread:.0%}",
        f"{row.ratio:.2f}",
        f"{row.low:.2f} to {row.high:.2f}",
    ]
