"""From what a caller gives to what a run needs: for class scores, and for losses of one's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from ghostify.data.image_files import DataError
from ghostify.data.opening import Data, open_pool, split_folder
from ghostify.data.pools import Part, Pool
from ghostify.data.preparation import Preparation
from ghostify.errors import ModelError, SettingsError
from ghostify.nn.modes import eval_mode, modes_kept, steady_train_mode
from ghostify.train.checks import check_classes
from ghostify.train.features import scores_of
from ghostify.train.inputs import ImageOptions, open_any
from ghostify.train.objective import ClassScores, Objective
from ghostify.train.own import OwnLoss, OwnLossFunction, OwnMetric, OwnMetricFunction, Ready
from ghostify.train.points import (
    Point,
    agreeing,
    agreeing_on_images,
    find_points,
    find_points_of_any,
)
from ghostify.train.settings import FinetuneSettings
from ghostify.train.validation import Accuracy, Validation

if TYPE_CHECKING:
    from lightning_fabric import Fabric

NO_FEATURES = (
    "features are not distilled: the teacher is not the student's original, or there is no place "
    "where both give one tensor of the same shape"
)


@dataclass(frozen=True)
class Networks:
    """The networks of a run.

    Attributes:
        given: The student as it was given.
        student: The copy that is tuned.
        teacher: A copy of the teacher, in eval mode; None without one.
        fabric: The engine.
    """

    given: nn.Module
    student: nn.Module
    teacher: nn.Module | None
    fabric: Fabric


@dataclass(frozen=True)
class Task:
    """What a run needs beside networks and settings.

    Attributes:
        objective: What the network is tuned for.
        pool: Training images, or batches of any kind.
        validation: How it is validated, where it is.
        points: Where features are compared.
        notes: What a reader must know.
    """

    objective: Objective
    pool: Pool
    validation: Validation | None
    points: tuple[Point, ...]
    notes: tuple[str, ...] = ()


def classify(
    networks: Networks,
    data: Data,
    val: Data | None,
    metric: OwnMetricFunction | None,
    chosen: FinetuneSettings,
    wanted: ImageOptions,
) -> Task:
    """The task of giving class scores, as a teacher and labels tell them.

    Raises:
        DataError: The images can't be read, or don't fit the network.
        ModelError: Teacher and student don't fit.
        SettingsError: There is no loss to tune by.
    """
    preparation = wanted.preparation(networks.given)
    data, val = split_folder(data, val)
    pool = open_pool(data, preparation, chosen.workers)
    val_pool = None if val is None else open_pool(val, preparation, chosen.workers)
    _check_val(pool, val_pool)
    losses, points, notes = _choose_losses(
        networks.student, networks.teacher, pool, val_pool, preparation, chosen
    )
    validation: Validation | None = None
    if metric is not None:
        validation = _own_metric(metric, val_pool, Ready(preparation), chosen)
    elif val_pool is not None:
        _check_samples(val_pool, chosen)
        validation = Accuracy(val_pool, preparation, chosen)
    objective = ClassScores(losses, pool, preparation, chosen)
    return Task(objective, pool, validation, points, (*preparation.notes, *notes))


def follow(
    networks: Networks,
    data: Data,
    val: Data | None,
    loss: OwnLossFunction,
    metric: OwnMetricFunction | None,
    chosen: FinetuneSettings,
    wanted: ImageOptions,
) -> Task:
    """The task that a caller's own loss states, on batches of any kind.

    Raises:
        DataError: The data can't be read.
        SettingsError: Loss or metric fail, or there is nothing to measure on.
    """
    if val is not None and metric is None:
        raise SettingsError(
            "val is given without what to measure on it: give metric=function beside loss."
        )
    data, val = split_folder(data, val)
    pool, ready = open_any(data, networks.given, chosen.workers, wanted)
    validation = None
    if metric is not None:
        val_pool, val_ready = (None, ready) if val is None else open_any(
            val, networks.given, chosen.workers, wanted
        )  # fmt: skip
        validation = _own_metric(metric, val_pool, val_ready, chosen)
    objective = OwnLoss(loss, ready)
    points, notes = _try_loss(networks, objective, pool, chosen)
    said = () if ready.preparation is None else ready.preparation.notes
    return Task(objective, pool, validation, points, (*said, *notes))


def _own_metric(
    metric: OwnMetricFunction, pool: Pool | None, ready: Ready, chosen: FinetuneSettings
) -> OwnMetric:
    if pool is None:
        raise SettingsError("metric is given without data to measure on: give val=data too.")
    _check_samples(pool, chosen)
    return OwnMetric(metric, pool, ready, chosen.seed, chosen.val_samples)


def _check_samples(pool: Pool, chosen: FinetuneSettings) -> None:
    """Raise now where a validation could not choose its samples later."""
    if chosen.val_samples is not None:
        pool.in_order(1, chosen.val_samples, chosen.seed)


def _try_loss(
    networks: Networks, objective: OwnLoss, pool: Pool, chosen: FinetuneSettings
) -> tuple[tuple[Point, ...], tuple[str, ...]]:
    """Compute the loss of a first batch, for its names; points of comparison, notes."""
    student, teacher, fabric = networks.student, networks.teacher, networks.fabric
    shares = chosen.accumulate * fabric.world_size
    first = list(range(min(len(pool), max(1, chosen.batch_size // shares))))
    batch = next(pool.batches([Part(None, 0, first)], chosen.seed, False))
    inputs = objective.inputs(batch, fabric)
    student.to(fabric.device)
    points: tuple[Point, ...] = ()
    with modes_kept(student), fabric.autocast():
        steady_train_mode(student)
        objective.learn_names(objective.compute(student, inputs))
        if teacher is None or not chosen.features:
            return (), ()
        taught = objective.ready_teacher(teacher).to(fabric.device)
        points = agreeing_on_images(
            find_points_of_any(student, taught), student, taught, objective.compute, inputs
        )
    if not points:
        return (), (NO_FEATURES,)
    objective.losses = (*objective.losses, "features")
    return points, ()


def _choose_losses(
    student: nn.Module,
    teacher: nn.Module | None,
    pool: Pool,
    val: Pool | None,
    preparation: Preparation,
    chosen: FinetuneSettings,
) -> tuple[tuple[str, ...], tuple[Point, ...], tuple[str, ...]]:
    """Names of the losses that can be used, points of comparison, notes."""
    if teacher is None and not pool.labelled:
        raise DataError(
            "There is nothing to learn from: the data has no labels and there is no teacher; give "
            "teacher=original (--teacher), or a folder of class folders."
        )
    losses = ["ce"] if pool.labelled and chosen.ce else []
    points: tuple[Point, ...] = ()
    notes: list[str] = []
    sample = _sample(student, pool.size or preparation.size)
    outputs = _outputs_of(student, sample, "student")
    for known in (pool, val):
        if known is not None:
            check_classes(known, known.known_labels(), outputs)
    if teacher is not None:
        taught = _outputs_of(teacher, sample, "teacher")
        if taught != outputs:
            raise ModelError(
                f"The teacher has {taught} classes and the student {outputs}: give a teacher of "
                "the same classes."
            )
        if chosen.kd:
            losses.append("kd")
        if chosen.features:
            points = agreeing(find_points(student, teacher), student, teacher, sample)
            if points:
                losses.append("features")
            else:
                notes.append(NO_FEATURES)
    if not losses:
        raise SettingsError(
            "The weights of all losses that could be used are 0: give ce, kd or features a weight."
        )
    return tuple(losses), points, tuple(notes)


def _sample(student: nn.Module, size: tuple[int, ...]) -> torch.Tensor:
    first = next(student.parameters(), torch.zeros(()))
    return torch.zeros(2, *size, device=first.device, dtype=first.dtype)


@torch.no_grad()
def _outputs_of(network: nn.Module, sample: torch.Tensor, name: str) -> int:
    """Number of a network's classes; raises where it can't take such images."""
    device = next((p.device for p in network.parameters()), sample.device)
    way_out = "input_size, or another teacher"
    with eval_mode(network):
        return scores_of(network, sample.to(device), name, way_out, ModelError).shape[1]


def _check_val(pool: Pool, val: Pool | None) -> None:
    if val is None:
        return
    if not val.labelled:
        raise DataError("The validation images have no labels: give a folder of class folders.")
    if pool.classes and val.classes and pool.classes != val.classes:
        odd = sorted(set(pool.classes) ^ set(val.classes))
        raise DataError(
            f"Training and validation data have other classes ({', '.join(odd[:3])}): give folders "
            "of the same class folders."
        )
