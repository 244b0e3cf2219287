"""Classifying labelled images and counting what is right."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypedDict, overload

import torch
import torch.nn.functional as F
from torch import nn
from typing_extensions import Unpack

from ghostify.data.image_files import DataError
from ghostify.data.opening import Data, held_out, open_pool
from ghostify.data.pools import LoaderPool, Pool
from ghostify.data.preparation import Preparation
from ghostify.errors import SettingsError, shown
from ghostify.nn.modes import eval_mode
from ghostify.numerics.surroundings import own_surroundings
from ghostify.progress import Milestone, Progress, silent
from ghostify.settings.base import check_whole
from ghostify.train.accuracy import Evaluation, Share
from ghostify.train.checks import check_classes, check_network, modes_told
from ghostify.train.engine import combine, open_engine
from ghostify.train.features import scores_of
from ghostify.train.inputs import ImageOptions, open_any
from ghostify.train.measured import Measured
from ghostify.train.own import OwnMetric, OwnMetricFunction, label_of

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class EvaluateOptions(TypedDict, total=False):
    """What both forms of `evaluate` take."""

    batch_size: int
    samples: int | None
    seed: int
    workers: int
    precision: str
    accelerator: str
    devices: int | str
    input_size: tuple[int, ...] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    progress: Progress


@overload
def evaluate(
    model: nn.Module, data: Data, *, metric: None = None, **options: Unpack[EvaluateOptions]
) -> Evaluation: ...


@overload
def evaluate(
    model: nn.Module, data: Data, *, metric: OwnMetricFunction, **options: Unpack[EvaluateOptions]
) -> Measured: ...


@own_surroundings()
def evaluate(
    model: nn.Module,
    data: Data,
    *,
    metric: OwnMetricFunction | None = None,
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
) -> Evaluation | Measured:
    """Classify labelled images and count what is right, or measure a metric of your own.

    The network is not changed.

    Args:
        model: A network that gives class scores, ``(N, classes)``; with a metric any network.
        data: A folder of class folders (or one that has such a ``test`` or ``val`` inside), tensors
            ``(images, labels)``, a data set of ``(image, label)``, a loader. With a metric of any
            kind: a loader, whose batches are taken as they are, a data set (its items are put
            together by its ``collate_fn``, where it has one), a tuple of tensors.
        metric: From the network (in eval mode, without gradients) and the batches to a number, or
            to a dict of numbers, as `finetune` takes it. Each process measures on all batches.
        batch_size: Samples at a time, where the data is no loader.
        samples: How many to take, chosen by the seed; all where not given. Not of a loader.
        seed: Of that choice.
        workers: Processes that read images, where they are not kept in memory.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``.
        accelerator: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        devices: How many; under torchrun its processes say it.
        input_size: ``(C, H, W)`` that image files are brought to; worked out where not given.
        mean: Of image files' channels; the network's configuration says it where this does not.
        std: Likewise.
        progress: Told what is done now.

    Returns:
        Accuracy and loss; with a metric its figures.

    Raises:
        DataError: The images can't be read, have no labels, or don't fit the network; samples are
            to be chosen from a loader.
        SettingsError: The metric fails, or gives no numbers.
        GhostifyError: The engine (``ghostify[train]``) is not installed.

    Example:
        >>> def darkest(network, batches):
        ...     return min(float(network(x).min()) for x in batches)
        >>> evaluate(nn.ReLU(), torch.zeros(4, 3, 8, 8), metric=darkest).figures
        {'metric': 0.0}
    """
    check_network(model)
    check_whole("batch_size", batch_size, 1)
    if samples is not None:
        check_whole("samples", samples, 1)
    for name, value in (("seed", seed), ("workers", workers)):
        check_whole(name, value, 0)
    if metric is not None and not callable(metric):
        raise SettingsError(f"metric={shown(metric)} can't be called: give a function.")
    fabric = open_engine(accelerator, devices, precision)
    wanted = ImageOptions(input_size, mean, std)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        with modes_told(model):
            moved = fabric.to_device(model)
            if metric is not None:
                pool, ready = open_any(held_out(data), model, workers, wanted)
                progress(f"measuring {label_of(metric)}")
                own = OwnMetric(metric, pool, ready, seed, samples)
                return own.measure(fabric, moved, batch_size)
            preparation = wanted.preparation(model)
            pool = open_pool(held_out(data), preparation, workers)
            return measure(fabric, moved, pool, preparation, batch_size, samples, seed, progress)
    finally:
        model.to(device)


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
            pool.in_order(batch_size, samples, seed, fabric.global_rank, fabric.world_size),
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
