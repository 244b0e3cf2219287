"""Classifying labelled images and counting what is right."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from ghostify.cost.counting import count
from ghostify.data.image_files import DataError
from ghostify.data.opening import Data, held_out, open_pool
from ghostify.data.pools import LoaderPool, Part, Pool
from ghostify.data.preparation import Preparation, preparation_of
from ghostify.nn.modes import eval_mode
from ghostify.numerics.chance import permutation
from ghostify.numerics.random_state import keep_random_state
from ghostify.progress import Milestone, Progress, silent
from ghostify.saving.history import history_of
from ghostify.settings.base import check_whole
from ghostify.train.accuracy import Evaluation, Share
from ghostify.train.checks import check_network, modes_told
from ghostify.train.engine import combine, open_engine
from ghostify.train.features import scores_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@keep_random_state()
def evaluate(
    model: nn.Module,
    data: Data,
    *,
    batch_size: int = 256,
    samples: int | None = None,
    seed: int = 0,
    workers: int = 0,
    precision: str = "fp32",
    accelerator: str = "auto",
    devices: int | str = 1,
    input_size: tuple[int, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    progress: Progress = silent,
) -> Evaluation:
    """Classify labelled images and count what is right. The network is not changed.

    Args:
        model: A network that gives class scores, ``(N, classes)``.
        data: A folder of class folders (or one that has such a ``test`` or ``val`` inside), tensors
            ``(images, labels)``, a data set of ``(image, label)``, a loader.
        batch_size: Images at a time.
        samples: How many images to take, chosen by the seed; all where not given.
        seed: Of that choice.
        workers: Processes that read images, where they are not kept in memory.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        accelerator: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        devices: How many; under torchrun its processes say it.
        input_size: ``(C, H, W)`` that image files are brought to; worked out where not given.
        mean: Of image files' channels; the network's configuration says it where this does not.
        std: Likewise.
        progress: Told what is done now.

    Raises:
        DataError: The images can't be read, have no labels, or don't fit the network.
        GhostifyError: The engine (``ghostify[train]``) is not installed.
    """
    check_network(model)
    check_whole("batch_size", batch_size, 1)
    if samples is not None:
        check_whole("samples", samples, 1)
    for name, value in (("seed", seed), ("workers", workers)):
        check_whole(name, value, 0)
    fabric = open_engine(accelerator, devices, precision)
    preparation = preparation_of(model, input_size or input_size_of(model), mean, std)
    pool = open_pool(held_out(data), preparation, workers)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with modes_told(model):
            return measure(
                fabric, fabric.to_device(model), pool, preparation, batch_size, samples, seed,
                progress,
            )  # fmt: skip
    finally:
        model.to(device)


def input_size_of(model: nn.Module) -> tuple[int, ...]:
    """``(C, H, W)`` of the input that the network's costs were counted for."""
    report = history_of(model).report
    inputs = report.inputs if report is not None and report.inputs else count(model).inputs
    return tuple(int(size) for size in inputs.split(", ")[0].split("x")[1:])


@torch.no_grad()
def measure(
    fabric: Fabric,
    network: nn.Module,
    pool: Pool,
    preparation: Preparation,
    batch_size: int,
    samples: int | None,
    seed: int,
    progress: Progress = silent,
) -> Evaluation:
    """`evaluate` with what is open already; the network stays in the mode it has."""
    start = time.perf_counter()
    if not pool.labelled:
        raise DataError("The images have no labels to check: give a folder of class folders.")
    sums = torch.zeros(4, dtype=torch.float64)
    outputs = 0
    total = _share_of(pool, samples, fabric.world_size)
    with eval_mode(network):
        for images, labels in pool.batches(
            _parts(pool, batch_size, samples, seed, fabric.global_rank, fabric.world_size),
            seed,
            False,
        ):
            assert labels is not None
            if not len(labels):
                continue
            x = preparation.normalise(fabric.to_device(images))
            with fabric.autocast():
                scores = scores_of(network, x)
            check_classes(pool, labels, scores.shape[1])
            wanted = fabric.to_device(labels)
            outputs = scores.shape[1]
            ranks = _ranks(scores, wanted)
            loss = F.cross_entropy(scores, wanted, reduction="sum")
            sums += torch.tensor(
                [float((ranks < 1).sum()), float((ranks < 5).sum()), float(loss), len(labels)],
                dtype=torch.float64,
            )
            seen = int(sums[3])
            text = f"evaluating, {seen} images"
            progress(Milestone(text, seen / total) if total else text)
    sums = combine(fabric, sums, "sum")
    right, right5, loss_sum, count = sums.tolist()
    n = round(count)
    share5 = Share(round(right5), n) if outputs > 5 else None
    return Evaluation(Share(round(right), n), share5, n, loss_sum / n, time.perf_counter() - start)


def _share_of(pool: Pool, samples: int | None, ranks: int) -> int:
    """How many images one process looks at; 0 where a loader doesn't say."""
    if isinstance(pool, LoaderPool):
        return 0
    return -(-min(len(pool), samples or len(pool)) // ranks)


def _ranks(scores: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """How many classes come before the wanted one, ``(N,)``: of equal scores the first does."""
    own = scores.gather(1, wanted[:, None])
    earlier = torch.arange(scores.shape[1], device=scores.device) < wanted[:, None]
    return ((scores > own) | ((scores == own) & earlier)).sum(1)


def _parts(
    pool: Pool, size: int, samples: int | None, seed: int, rank: int, ranks: int
) -> Iterator[Part]:
    """This process's part of the images, in order."""
    if isinstance(pool, LoaderPool):
        for place in range(len(pool.loader)):
            yield Part(None, place, [], (rank, ranks))
        return
    chosen = list(range(len(pool)))
    if samples is not None and samples < len(pool):
        chosen = sorted(permutation(len(pool), seed, -1)[:samples])
    mine = chosen[rank::ranks]
    for place, start in enumerate(range(0, len(mine), size)):
        yield Part(None, place, mine[start : start + size])


def check_classes(pool: Pool, labels: torch.Tensor, outputs: int) -> None:
    """Raise where the classes of the data are not those of the network."""
    if pool.classes is not None and len(pool.classes) != outputs:
        raise DataError(
            f"The data has {len(pool.classes)} classes ({', '.join(pool.classes[:3])}, ...) and "
            f"the network {outputs} outputs: give data of the classes it was trained on."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < outputs:
        raise DataError(
            f"The data has labels {int(labels.min())} to {int(labels.max())} and the network "
            f"{outputs} outputs: give data of the classes it was trained on."
        )
