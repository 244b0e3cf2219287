"""The measured time of networks beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from torch import nn

from ghostify.deploy.contest import Contest, Told, moved, timer_for
from ghostify.deploy.formats import named
from ghostify.deploy.machine import device_of
from ghostify.deploy.program import Program, example_arguments, with_batch
from ghostify.deploy.runtimes import RUNTIMES, dtype_name
from ghostify.deploy.times import Benchmark, NetworkTime, PartTime
from ghostify.errors import ModelError, SettingsError, first_line
from ghostify.graph.inputs import ExampleInputs, dtype_of
from ghostify.graph.meta_copy import copy_network
from ghostify.numerics.surroundings import own_surroundings
from ghostify.progress import Milestone, Progress, silent
from ghostify.saving import build, network_of
from ghostify.saving.history import history_of, name_of

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@own_surroundings()
def benchmark(
    *models: nn.Module | str,
    runtime: str | Sequence[str] = "eager",
    batch: int | Sequence[int] = 1,
    threads: int | Sequence[int] = 1,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | str | None = None,
    layers: bool = False,
    seconds: float = 30.0,
    precision: float = 0.02,
    progress: Progress = silent,
) -> Benchmark:
    """Measure the time of networks, each in its inference form, in alternation.

    One saved conversion alone is compared with its original, if something is known to build it.

    Args:
        *models: Networks, or names of some; the first is what the others are compared with.
        runtime: ``"eager"``, ``"compile"``, ``"onnxruntime"``, ``"openvino"``, ``"aoti"``,
            ``"executorch"``, ``"litert"``, ``"cudagraph"`` (eager PyTorch, its kernels captured
            once and started together); one or several.
        batch: Number of images, or several.
        threads: Number of threads, or several. With one, CPU time is measured: the wall time
            without what other processes take.
        example_inputs: What the networks take; worked out from the first if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        device: Where PyTorch runs them. On a GPU the time is that between two events.
        dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``, for PyTorch and its compiler; the
            networks' own if not given.
        layers: Whether each converted layer and stage is measured too: alone, in its inference
            form, beside the original's, which must be the first network.
        seconds: Most time for the rounds of one runtime, batch and number of threads; as much again
            for all layers.
        precision: The rounds end earlier where each ratio is known so well, as a part of itself.
        progress: Told what is done now.

    Raises:
        SettingsError: There is no such runtime, or it is not installed; a value makes no sense.
        ModelError: A network can't be run, or the runtime can't hold it.

    Example:
        >>> import ghostify
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
        >>> found = benchmark(net, ghostify.convert(net), input_size=(3, 32, 32), seconds=0)
        >>> [row.batch for row in found.rows]
        [1, 1]
    """
    place, number = device_of(device), _dtype(dtype)
    runtimes = [named("runtime", name, RUNTIMES) for name in _several(runtime)]
    for chosen in runtimes:
        chosen.require(place, number)
    batches, numbers = _several(batch), _several(threads)
    _check_threads(numbers)
    networks = _contestants(models)
    first, *others = networks.values()
    if layers and not any(history_of(network).plans for network in others):
        raise SettingsError(
            "layers=True needs an original and its conversion: give both, or a saved folder alone."
        )
    args = example_arguments(first, example_inputs, input_size)
    sized = {size: with_batch(args, size) for size in batches}
    _check_batches(networks, sized)
    is_cpu = set(numbers) == {1} and place.type == "cpu"
    rows: list[NetworkTime] = []
    parts: list[PartTime] = []
    notes: dict[str, None] = {}
    each, done = 1 / (len(runtimes) * len(numbers) * len(batches)), 0.0
    for chosen in runtimes:
        program_of = {n: chosen.program(net, args, place) for n, net in networks.items()}
        for count, size in product(numbers, batches):
            contest = Contest(chosen, size, count, seconds, precision, timer_for(place, count))
            told = _telling(progress, f"{chosen.name}, batch {size}, {count} threads", done, each)
            told(0.0)
            programs = {
                name: moved(replace(program, args=sized[size]), place, number)
                for name, program in program_of.items()
            }
            # As much time is for the layers as for the networks.
            found, fastest = contest.measure(programs, _portion(told, 0.0, 0.5 if layers else 1.0))
            rows += found
            if layers:
                for name, network in list(networks.items())[1:]:
                    plans = history_of(network).plans
                    found_parts, left = contest.measure_parts(
                        fastest, name, plans, _portion(told, 0.5, 0.5)
                    )
                    parts += found_parts
                    notes.update(dict.fromkeys(left))
            done += each
    shapes = ", ".join("x".join(map(str, t.shape[1:])) for t in Program(nn.Module(), args).tensors)
    clock = "GPU time" if place.type == "cuda" else "CPU time" if is_cpu else "Wall time"
    kind = dtype_name(number or dtype_of(first))
    return Benchmark(tuple(rows), shapes, clock, kind, tuple(parts), tuple(notes))


def _telling(progress: Progress, text: str, begin: float, length: float) -> Told:
    """What tells a share of one run as a share of them all."""
    return _portion(lambda share: progress(Milestone(text, share)), begin, length)


def _portion(told: Told, begin: float, length: float) -> Told:
    """What tells a share of a part as a share of the whole."""
    return lambda share: told(begin + length * share)


def _check_batches(networks: Mapping[str, nn.Module], sized: Mapping[int, tuple[Any, ...]]) -> None:
    """Raise `ModelError` unless every network takes every batch."""
    for args in sized.values():
        for name, network in networks.items():
            try:
                Program(network, args).run()
            except Exception as error:
                shapes = ", ".join(str(tuple(t.shape)) for t in Program(network, args).tensors)
                raise ModelError(
                    f"{name} can't be run on {shapes} ({type(error).__name__}: "
                    f"{first_line(error).rstrip('.')}): choose another batch or input size."
                ) from error


def _dtype(given: torch.dtype | str | None) -> torch.dtype | None:
    if given is None or given in DTYPES.values():
        return given  # type: ignore[return-value]
    name = dtype_name(given) if isinstance(given, torch.dtype) else str(given)
    return named("dtype", name, DTYPES)


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
