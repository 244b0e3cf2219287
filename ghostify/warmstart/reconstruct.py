"""Tuning to reproduce the original's outputs on the calibration images: no labels are used."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.data.augmentation import shift_and_mirror
from ghostify.data.spool import Span, Spool, common_spans
from ghostify.distributed import count_of_all, processes
from ghostify.graph.segments import Segment
from ghostify.numerics.nested import floats_in
from ghostify.progress import Milestone, Progress, silent
from ghostify.tuning.descent import Budget, descend, improve, improve_statistics
from ghostify.tuning.losses import difference, distillation
from ghostify.tuning.norms import norms_average, norms_learn
from ghostify.warmstart.fit.held_out import split_spans

BLOCK_RATE, NETWORK_RATE = 3e-3, 2e-2
"""Of Adam for blocks, of SGD for the whole network, where it comes further in as many steps."""

TEMPERATURE, ON_THE_WAY = 4.0, 30.0
"""Of the softened class scores, and the weight of what is given on the way to them."""

View = Callable[[Tensor], list[Any]]
"""Computes outputs of a network's parts, and its own output at the end."""


def tune_part(
    modules: Sequence[nn.Module],
    run: Callable[[Any], Any],
    inputs: Spool,
    targets: Spool,
    budget: Budget,
    size: int,
    seed: int,
    held_out: int = 0,
) -> int:
    """Tune a part of a network so that, on what it now gets, it gives what the original's gave.

    Args:
        modules: The modules to tune.
        run: Computes the part's output from its input.
        inputs: The part's inputs in the converted network.
        targets: Outputs of the original's part, image for image.
        budget: Steps and seconds.
        size: Images of a step.
        seed: Of their choice.
        held_out: How many images, the last ones, no step sees.

    Returns:
        Number of steps.
    """
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        x, y = _draw((inputs, targets), size, generator, held_out)
        return difference(run(x), y)

    def errors() -> Iterator[Tensor]:
        return (difference(run(x), y) for x, y in _judging((inputs, targets), size, held_out))

    return improve(modules, loss, errors, partial(descend, budget=budget, rate=BLOCK_RATE))


def tune_network(
    taught: View,
    made: View,
    network: nn.Module,
    images: Spool,
    budget: Budget,
    size: int,
    seed: int,
    held_out: int = 0,
    progress: Progress = silent,
) -> int:
    """Tune the whole network towards the original's output, and what it gives on the way.

    Images are mirrored and shifted at random: the original answers for each variant itself.
    Batch norms use the statistics of the batch meanwhile, and learn them. What it comes to is
    judged by the output alone.

    Args:
        taught: Outputs of the original.
        made: Outputs of the network, tensor for tensor.
        network: The network to tune.
        images: The calibration images.
        budget: Steps and seconds.
        size: Images of a step.
        seed: Of their choice and variation.
        held_out: How many images, the last ones, no step sees.
        progress: Told the step.

    Returns:
        Number of steps.
    """
    generator = torch.Generator().manual_seed(seed)
    count, began = 0, time.perf_counter()

    def apart(x: Tensor) -> tuple[Tensor | None, Tensor]:
        """How far the outputs are apart, where they can be compared; and what is on the way."""
        with torch.no_grad():
            *wayside, wanted = taught(x)
        *passed, output = made(x)
        both = zip(passed, wayside, strict=False)
        parts = [difference(a, b) for a, b in both if comparable(a, b)]
        on_the_way = ON_THE_WAY * sum(parts, torch.zeros(())) / max(len(parts), 1)
        return outputs_apart(output, wanted) if comparable(output, wanted) else None, on_the_way

    def judged(x: Tensor) -> Tensor:
        # What comes closer on the way may lose at the end, where the fit was close already.
        ends, on_the_way = apart(x)
        return on_the_way if ends is None else ends

    def loss() -> Tensor:
        nonlocal count
        spent = (time.perf_counter() - began) / budget.seconds
        share = max(count / budget.steps, spent)
        count += 1
        progress(Milestone(f"reconstructing the network, step {count}", share))
        (x,) = _draw((images,), size, generator, held_out)
        if isinstance(x, Tensor) and x.ndim == 4 and x.dtype.is_floating_point:
            x = shift_and_mirror(x, (seed, count), list(range(len(x))))
        ends, on_the_way = apart(x)
        return on_the_way if ends is None else ends + on_the_way

    x = next(images.batches(size))
    with torch.no_grad():
        if not any(map(comparable, made(x), taught(x))):
            return 0

    def errors() -> Iterator[Tensor]:
        return (judged(x) for (x,) in _judging((images,), size, held_out))

    def tune(parameters: list[nn.Parameter], loss: Callable[[], Tensor]) -> int:
        sgd = partial(torch.optim.SGD, momentum=0.9, nesterov=True)
        with norms_learn(network):
            steps = descend(parameters, loss, budget, NETWORK_RATE, sgd)
        if steps:
            average = partial(_average_norms, network, made, images, 4 * size, held_out)
            improve_statistics(network, errors, average)
        return steps

    return improve([network], loss, errors, tune)


def outputs_apart(made: Any, wanted: Any) -> Tensor:
    """Loss of an output: distillation of class scores ``(N, classes)``, of others the energy."""
    if isinstance(wanted, Tensor) and wanted.ndim == 2 and wanted.shape[1] > 1:
        return distillation(made, wanted, TEMPERATURE)
    return ON_THE_WAY * difference(made, wanted)


def comparable(made: Any, wanted: Any) -> bool:
    """Whether outputs of two networks have numbers, and the same shapes: what was detected may not.

    Example:
        >>> comparable(torch.ones(2, 3), torch.ones(2, 3)), comparable(torch.ones(2), None)
        (True, False)
    """
    shapes = [tuple(tensor.shape) for tensor in floats_in(made)]
    return bool(shapes) and shapes == [tuple(tensor.shape) for tensor in floats_in(wanted)]


def outputs_along(network: nn.Module, segments: Sequence[Segment], x: Any) -> list[Any]:
    """The output of each of a network's segments."""
    outputs = []
    for segment in segments:
        x = segment.run(network, x)
        outputs.append(x)
    return outputs


def _parts(spools: Sequence[Spool], size: int, held_out: int) -> tuple[list[Span], list[Span]]:
    """The batches that steps draw from, and those that no step sees."""
    is_even = all(spool.is_even for spool in spools)
    return split_spans(common_spans(size, *spools), len(spools[0]) - held_out, is_even)


def _judging(spools: Sequence[Spool], size: int, held_out: int) -> Iterator[tuple[Any, ...]]:
    """The samples that tell whether a tuning helped: those that no step sees, where there are any.

    A network that is close to the original can come closer on what it sees, and lose elsewhere.
    """
    seen, unseen = _parts(spools, size, held_out)
    for span in unseen if count_of_all(len(unseen)) else seen:
        yield tuple(spool.slice(span) for spool in spools)


@torch.no_grad()
def _average_norms(network: nn.Module, made: View, images: Spool, size: int, held_out: int) -> None:
    """Give batch norms that learn the statistics of all images that steps saw."""
    seen, _ = _parts((images,), size, held_out)
    most = max(end - start for start, end in seen)
    with norms_learn(network), norms_average(network):
        for start, end in seen:
            if 2 * (end - start) > most > 1:  # the rest is too few for statistics of its own
                made(images.slice((start, end)))


def _draw(
    spools: Sequence[Spool], size: int, generator: torch.Generator, held_out: int
) -> tuple[Any, ...]:
    """This process's part of a step's samples, of those that it has."""
    own = -(-size // processes()[1])
    if all(spool.is_even for spool in spools):
        rows = torch.randint(len(spools[0]) - held_out, (own,), generator=generator).tolist()
        return tuple(spool.take(rows) for spool in spools)
    spans, _ = split_spans(common_spans(own, *spools), len(spools[0]) - held_out, False)
    span = spans[int(torch.randint(len(spans), (), generator=generator))]
    return tuple(spool.slice(span) for spool in spools)
