"""Tuning a converted network, by a teacher and by labels."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify import saving
from ghostify.data.image_files import DataError
from ghostify.data.opening import Data, open_pool, split_folder
from ghostify.data.pools import Pool
from ghostify.data.preparation import Preparation, preparation_of
from ghostify.errors import ModelError, SettingsError, nearest
from ghostify.files import kind_of
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import eval_mode
from ghostify.numerics.random_state import keep_random_state
from ghostify.saving.history import history_of
from ghostify.train import checkpoint
from ghostify.train.engine import open_engine
from ghostify.train.evaluation import check_classes, input_size_of
from ghostify.train.features import Point, agreeing, find_points, scores_of
from ghostify.train.journal import Journal
from ghostify.train.loop import Job, Told, Training
from ghostify.train.result import Finetuned
from ghostify.train.settings import FinetuneSettings


@keep_random_state()
def finetune(
    student: nn.Module,
    data: Data,
    settings: FinetuneSettings | None = None,
    *,
    teacher: nn.Module | None = None,
    val: Data | None = None,
    output: str | Path | None = None,
    resume: bool = False,
    accelerator: str = "auto",
    devices: int | str = 1,
    input_size: tuple[int, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    progress: Told | None = None,
    **options: Any,
) -> Finetuned:
    """Tune a converted network: distillation from a teacher, cross-entropy with labels.

    With a teacher, its logits are learned from, and where it is the student's original, what it
    computes at the ends of converted blocks too. With labels, these. The networks that are given
    are not changed.

    Args:
        student: The network to tune, as `ghostify.convert` or `ghostify.load` gave it.
        data: Training images: a folder of class folders (or one that has such a ``train`` inside,
            with ``val`` or ``test`` beside it), a folder of images (no labels), tensors
            ``(images, labels)`` or images alone, a data set of ``(image, label)``, a loader.
            Image files, PIL images and bytes are normalised, cropped and mirrored; other tensors
            are ready for the network (a data set's and a loader's are taken as they are).
        settings: Settings as data, in place of ``options``.
        teacher: The trained original, or any network with the same classes.
        val: Images for validation, likewise.
        output: Folder for the tuned network, with checkpoint and metrics in ``training/``.
        resume: Whether to go on from the checkpoint that ``output`` holds, where there is one.
        accelerator: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        devices: How many; under torchrun its processes say it.
        input_size: ``(C, H, W)`` that image files are brought to; worked out where not given.
        mean: Of image files' channels; the network's configuration says it where this does not.
        std: Likewise.
        progress: Told each row of the log.
        **options: See `FinetuneSettings`.

    Returns:
        The tuned copy, and what was done.

    Raises:
        SettingsError: A setting makes no sense, or differs from the run to resume.
        DataError: The images can't be read, or don't fit the network.
        ModelError: Teacher and student don't fit.
        GhostifyError: The engine (``ghostify[train]``) is not installed.

    Example:
        >>> import ghostify
        >>> tuned = finetune(
        ...     ghostify.convert("resnet20-cifar", s=2), torch.rand(8, 3, 32, 32),
        ...     teacher=ghostify.build("resnet20-cifar"), steps=2, batch_size=4,
        ... )
        >>> tuned.losses, len(tuned.points)
        (('kd', 'features'), 10)
    """
    chosen = _settings(settings, options).beside(teacher is not None)
    target = None if output is None else Path(output)
    found = _look_for_run(target, resume)
    start = time.perf_counter()
    fabric = open_engine(accelerator, devices, chosen.precision)
    preparation = preparation_of(student, input_size or input_size_of(student), mean, std)
    data, val = split_folder(data, val)
    pool = open_pool(data, preparation, chosen.workers)
    val_pool = None if val is None else open_pool(val, preparation, chosen.workers)
    _check_val(pool, val_pool)
    tuned = copy_network(student)
    losses, points, more = _choose_losses(tuned, teacher, pool, val_pool, preparation, chosen)
    exceptions = [n for n, m in student.named_modules() if student.training and not m.training]
    job = Job(
        tuned, None if teacher is None else copy_network(teacher).eval(), points, losses, pool,
        val_pool, preparation, chosen, target, exceptions, progress or (lambda _: None),
    )  # fmt: skip
    run = Training(job, fabric)
    if found is not None:
        checkpoint.check_same(checkpoint.path_in(target), found, run.identity())  # type: ignore[arg-type]
        run.restore(found)
    folder = target / checkpoint.FOLDER if target and fabric.is_global_zero else None
    journal = Journal(folder, run.step)
    try:
        interrupted = run.go(journal)
    finally:
        journal.close()
    run.observed.release()
    result = _hand_over(run.network, student)
    if target is not None and fabric.is_global_zero and not interrupted:
        saving.write_network(result, target, history_of(student))
    fabric.barrier()
    return Finetuned(
        result, chosen, run.step, run.total, losses, tuple(p.name for p in points), run.last,
        run.validation, len(pool), time.perf_counter() - start, interrupted,
        (*preparation.notes, *more),
    )  # fmt: skip


def _settings(settings: FinetuneSettings | None, options: dict[str, Any]) -> FinetuneSettings:
    if settings is not None:
        if options:
            raise SettingsError(
                f"{', '.join(options)} given beside settings: put everything into the settings."
            )
        return settings
    known = FinetuneSettings.__dataclass_fields__
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SettingsError(
            f"{unknown[0]!r} is no setting of finetune{nearest(unknown[0], known)}: "
            f"see FinetuneSettings."
        )
    return FinetuneSettings(**options)


def _look_for_run(output: Path | None, resume: bool) -> dict[str, Any] | None:
    """The checkpoint to go on from; None to begin."""
    if output is None:
        if resume:
            raise SettingsError("resume needs the folder of the run: give output.")
        return None
    saving.check_target(output)
    path = checkpoint.path_in(output)
    if kind_of(path) != "file":
        return None
    found = checkpoint.read_checkpoint(path)
    if resume:
        return found
    if found["step"] < found["total"]:
        raise SettingsError(
            f"{output} holds a run that ended at step {found['step']} of {found['total']}: go on "
            "with resume=True (--resume), or give another folder."
        )
    return None


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
                notes.append(
                    "features are not distilled: the teacher is not the student's original, or "
                    "there is no place where both give one tensor of the same shape"
                )
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


def _hand_over(network: nn.Module, student: nn.Module) -> nn.Module:
    """The tuned network with the device, modes and history of the one that was given."""
    device = next((p.device for p in student.parameters()), torch.device("cpu"))
    network.to(device)
    modes = {name: module.training for name, module in student.named_modules()}
    for name, module in network.named_modules():
        module.training = modes[name]
    for parameter in network.parameters():
        parameter.grad = None
    return network
