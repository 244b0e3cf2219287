"""Tuning a converted network, by a teacher and by labels."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ghostify import saving
from ghostify.data.opening import Data
from ghostify.errors import SettingsError, nearest, shown
from ghostify.files import kind_of
from ghostify.graph.meta_copy import copy_network
from ghostify.numerics.surroundings import own_surroundings
from ghostify.saving.history import history_of
from ghostify.train import checkpoint
from ghostify.train.checks import check_network, check_tunable
from ghostify.train.engine import open_engine
from ghostify.train.inputs import ImageOptions
from ghostify.train.journal import Journal
from ghostify.train.loop import Job, Told, Training
from ghostify.train.own import OwnLossFunction, OwnMetricFunction
from ghostify.train.result import Finetuned
from ghostify.train.settings import FinetuneSettings
from ghostify.train.task import Networks, classify, follow


@own_surroundings()
def finetune(
    student: nn.Module,
    data: Data,
    settings: FinetuneSettings | None = None,
    *,
    teacher: nn.Module | None = None,
    loss: OwnLossFunction | None = None,
    metric: OwnMetricFunction | None = None,
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

    A network of any other task (detection, segmentation, audio, ...) is tuned by a ``loss`` of
    your own, beside what its original computes at the converted parts.

    Args:
        student: The network to tune, as `ghostify.convert` or `ghostify.load` gave it.
        data: Training images: a folder of class folders (or one that has such a ``train`` inside,
            with ``val`` or ``test`` beside it), a folder of images (no labels), tensors
            ``(images, labels)`` or images alone, a data set of ``(image, label)``, a loader.
            Image files, PIL images and bytes are normalised, cropped and mirrored; other tensors
            are ready for the network (a data set's and a loader's are taken as they are).
            With a loss of your own, of any kind: a loader, whose batches are taken as they are, a
            data set, whose items are put together by its ``collate_fn`` or PyTorch's, or a tuple of
            tensors; a folder's batches are ``(images, labels)``.
        settings: Settings as data, in place of ``options``.
        teacher: The trained original, or any network with the same classes.
        loss: From the network and a batch (on the device) to a tensor of one number, or to a dict
            of them, which are summed; in place of ``kd`` and ``ce``. The teacher's features are
            seen while the same loss is computed with it.
        metric: From the network (in eval mode) and the batches of ``val`` to a number, or to a dict
            of them; higher is better. The weights with the highest first number are the result.
        val: Data for validation, likewise.
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
    check_network(student, "student")
    if teacher is not None:
        check_network(teacher, "teacher")
    for name, function in (("loss", loss), ("metric", metric)):
        if function is not None and not callable(function):
            raise SettingsError(f"{name}={shown(function)} can't be called: give a function.")
    chosen = _settings(settings, options).beside(teacher is not None)
    target = _target(output)
    found = _look_for_run(target, resume)
    start = time.perf_counter()
    fabric = open_engine(accelerator, devices, chosen.precision)
    tuned = copy_network(student)
    check_tunable(tuned)
    taught = None if teacher is None else copy_network(teacher).eval()
    networks, wanted = Networks(student, tuned, taught, fabric), ImageOptions(input_size, mean, std)
    if loss is None:
        task = classify(networks, data, val, metric, chosen, wanted)
    else:
        task = follow(networks, data, val, loss, metric, chosen, wanted)
    exceptions = [n for n, m in student.named_modules() if student.training and not m.training]
    job = Job(
        tuned, taught, task.points, task.objective, task.pool, task.validation, chosen, target,
        exceptions, progress or (lambda _: None),
    )  # fmt: skip
    run = Training(job, fabric)
    if found is not None:
        checkpoint.check_same(checkpoint.path_in(target), found, run.identity())  # type: ignore[arg-type]
        run.restore(found)
    run.begin()
    folder = target / checkpoint.FOLDER if target and fabric.is_global_zero else None
    journal = Journal(folder, run.step, run.columns)
    try:
        interrupted = run.go(journal)
    finally:
        journal.close()
    run.end()
    run.observed.release()
    result = _hand_over(run.network, student)
    if target is not None and fabric.is_global_zero and not interrupted:
        saving.write_network(result, target, history_of(student))
    fabric.barrier()
    best = run.best
    return Finetuned(
        result, chosen, run.step, run.total, task.objective.losses,
        tuple(p.name for p in task.points), run.last, run.validation, len(task.pool),
        time.perf_counter() - start, interrupted, task.notes,
        None if best is None else best.before, None if best is None else best.step,
        tuple(journal.rows),
    )  # fmt: skip


def _settings(settings: FinetuneSettings | None, options: dict[str, Any]) -> FinetuneSettings:
    if settings is not None:
        if options:
            raise SettingsError(
                f"{', '.join(options)} given beside settings: put everything into the settings."
            )
        if not isinstance(settings, FinetuneSettings):
            raise SettingsError(
                f"settings={shown(settings)} are no FinetuneSettings: give these, or options."
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


def _target(output: str | Path | None) -> Path | None:
    if output is not None and not isinstance(output, str | os.PathLike):
        raise SettingsError(f"output={shown(output)} is no path: give that of a folder.")
    return None if output is None else Path(output)


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
