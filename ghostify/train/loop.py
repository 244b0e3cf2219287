"""The steps of a tuning: plain PyTorch, on devices and processes that the engine brings."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostify.data.image_files import DataError
from ghostify.data.pools import Batch, LoaderPool, Part, Pool
from ghostify.data.preparation import Preparation
from ghostify.errors import SettingsError
from ghostify.nn.memory_format import to_channels_last
from ghostify.numerics.chance import derive, permutation
from ghostify.numerics.random_state import seed_torch
from ghostify.train import checkpoint
from ghostify.train.accuracy import Evaluation
from ghostify.train.engine import combine
from ghostify.train.evaluation import check_classes, measure
from ghostify.train.features import Observed, Point
from ghostify.train.interrupts import Interrupts
from ghostify.train.journal import Journal
from ghostify.train.losses import Losses, LossWeights, weights_at
from ghostify.train.meter import Meter
from ghostify.train.optimize import make_average, make_optimizer, rate_at
from ghostify.train.result import LogRow
from ghostify.train.settings import FinetuneSettings
from ghostify.tuning.global_norms import GlobalNorms
from ghostify.tuning.losses import difference, distillation
from ghostify.tuning.norms import train_mode

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Told = Callable[[LogRow], None]


@dataclass(frozen=True)
class Job:
    """Networks, data and settings of a run.

    Attributes:
        student: What is tuned, in place.
        teacher: What it learns from, in eval mode; None where it learns from labels alone.
        points: Where features are compared.
        losses: Names of the losses that are used.
        pool: Training images.
        val: Images of validations.
        preparation: How images become the network's input.
        settings: How to tune.
        output: Folder for checkpoints and metrics.
        exceptions: Modules of the student that stay in eval mode.
        told: Told each row of the log.
    """

    student: nn.Module
    teacher: nn.Module | None
    points: tuple[Point, ...]
    losses: tuple[str, ...]
    pool: Pool
    val: Pool | None
    preparation: Preparation
    settings: FinetuneSettings
    output: Path | None
    exceptions: list[str]
    told: Told


class Training:
    """A run and its state: weights, their average, optimizer, scaler, and the number of steps.

    Order and chance follow from the seed and the step, so this is all that a resume needs.
    """

    def __init__(self, job: Job, fabric: Fabric) -> None:
        self.job, self.fabric = job, fabric
        chosen = job.settings
        self.size = job.pool.batch_size or chosen.batch_size
        self.per_epoch = self._steps_per_epoch()
        self.total = chosen.total_steps(self.per_epoch)
        self.step = 0
        self.validation: Evaluation | None = None
        self.last: LogRow | None = None
        if chosen.channels_last:
            to_channels_last(job.student)
        self.average = make_average(job.student, chosen.ema)
        if self.average is not None:
            self.average.to(fabric.device)
        self.observed = Observed(job.student, [(p.student, p.side) for p in job.points])
        self.wrapped, self.optimizer = fabric.setup(
            self.observed, make_optimizer(job.student, chosen)
        )
        self.teacher: Observed | None = None
        if job.teacher is not None:
            watched = Observed(job.teacher, [(p.teacher, p.side) for p in job.points])
            self.teacher = watched.to(fabric.device).eval()

    @property
    def network(self) -> nn.Module:
        """The network that the run makes: the average of the weights where there is one."""
        return self.job.student if self.average is None else self.average.module

    def _steps_per_epoch(self) -> int:
        pool, parts = self.job.pool, self.job.settings.accumulate * self.fabric.world_size
        if self.size % parts:
            raise SettingsError(
                f"A batch of {self.size} can't be split evenly into accumulate="
                f"{self.job.settings.accumulate} parts on {self.fabric.world_size} processes: "
                f"give a multiple of {parts}."
            )
        if isinstance(pool, LoaderPool):
            return len(pool.loader)
        if len(pool) < self.size:
            raise DataError(
                f"The data has {len(pool)} images, fewer than batch_size={self.size}: "
                "give more images, or a smaller batch."
            )
        return len(pool) // self.size

    def identity(self) -> dict[str, dict[str, Any]]:
        """Settings and checksums that must be the same for a run to go on."""
        pool = self.job.pool
        teacher = self.job.teacher
        return {
            "settings": {**self.job.settings.decisive(), "steps": self.total, "epochs": None},
            "data": {
                "images": len(pool), "labelled": pool.labelled, "batch": self.size,
                "checksum": pool.checksum(),
            },
            "teacher": {"checksum": checkpoint.digest(teacher)},
        }  # fmt: skip

    def state(self) -> dict[str, Any]:
        """State for a resume, as tensors and plain data."""
        return {
            **self.identity(),
            "step": self.step,
            "total": self.total,
            "model": self.job.student.state_dict(),
            "ema": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's state."""
        try:
            self.job.student.load_state_dict(state["model"])
        except RuntimeError as error:
            raise checkpoint.CheckpointError(
                "The checkpoint is of another network: resume with the one that it was begun with."
            ) from error
        if self.average is not None:
            self.average.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.step = state["step"]

    def save(self) -> None:
        """Write a checkpoint, where there is a place for it; rank 0 does."""
        if self.job.output is not None and self.fabric.is_global_zero:
            checkpoint.write_checkpoint(checkpoint.path_in(self.job.output), self.state())

    def go(self, journal: Journal) -> bool:
        """Do the steps that are left; whether it was stopped before the last."""
        chosen = self.job.settings
        train_mode(self.job.student, self.job.exceptions, chosen.norms == "frozen")
        meter = Meter(self.mean)
        batches = self.job.pool.batches(self._parts(), chosen.seed, chosen.augment)
        saved = time.monotonic()
        with Interrupts() as asked:
            while self.step < self.total:
                weights = weights_at(self.step, self.total, chosen)
                meter.add(self._do_step(batches, weights), weights)
                self.step += 1
                validated = self._validate_if_due(meter)
                if validated is not None or self.step % chosen.log_steps == 0 or self._is_last():
                    self._log(journal, meter, validated)
                due = time.monotonic() - saved > 60 * chosen.checkpoint_minutes
                if due or self._is_checkpoint_step():
                    self.save()
                    saved = time.monotonic()
                if not self._is_last() and self._anyone(asked.to_stop):
                    self.save()
                    return True
        return False

    def _is_last(self) -> bool:
        return self.step >= self.total

    def _is_checkpoint_step(self) -> bool:
        every = self.job.settings.checkpoint_steps
        if every is not None and self.step % every == 0:
            return True
        return self._is_last() or self.step % self.per_epoch == 0

    def _parts(self) -> Iterator[Part]:
        """This process's parts of the batches, from the present step on."""
        chosen, rank, ranks = self.job.settings, self.fabric.global_rank, self.fabric.world_size
        shares = chosen.accumulate * ranks
        order: list[int] = []
        epoch = -1
        for step in range(self.step, self.total):
            if step // self.per_epoch != epoch:
                epoch = step // self.per_epoch
                order = permutation(len(self.job.pool), chosen.seed, epoch)
            place = step % self.per_epoch
            batch = order[place * self.size : (place + 1) * self.size]
            for turn in range(chosen.accumulate):
                share = turn * ranks + rank
                cut = slice(share * self.size // shares, (share + 1) * self.size // shares)
                yield Part(epoch, place, batch[cut], (share, shares))

    def _do_step(self, batches: Iterator[Batch], weights: LossWeights) -> Losses:
        chosen, fabric = self.job.settings, self.fabric
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.total, chosen)
        shown: list[Losses] = []
        for turn in range(chosen.accumulate):
            batch = next(batches)
            # After the batch: reading it may use up chance, and dropout must not depend on that.
            seed_torch(derive(chosen.seed, self.step, turn, fabric.global_rank))
            is_part = turn + 1 < chosen.accumulate
            with fabric.no_backward_sync(self.wrapped, enabled=is_part):
                losses = self._losses(batch)
                fabric.backward(losses.total(weights) / chosen.accumulate)
            shown.append(losses.detach())
        if chosen.clip:
            fabric.clip_gradients(
                self.wrapped, self.optimizer, max_norm=chosen.clip, error_if_nonfinite=False
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.job.student)
        return Losses.mean(shown)

    def _losses(self, batch: Batch) -> Losses:
        chosen, job = self.job.settings, self.job
        images, labels = batch
        x = job.preparation.normalise(self.fabric.to_device(images))
        if chosen.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        shared = chosen.sync_norms and self.fabric.world_size > 1 and chosen.norms == "batch"
        with GlobalNorms() if shared else contextlib.nullcontext():
            logits, made = self.wrapped(x)
        ce = kd = features = None
        if "ce" in job.losses and labels is not None:
            check_classes(job.pool, labels, logits.shape[1])
            wanted = self.fabric.to_device(labels)
            ce = F.cross_entropy(logits, wanted, label_smoothing=chosen.label_smoothing)
        if self.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                told, taught = self.teacher(x)
            if "kd" in job.losses:
                kd = distillation(logits, told, chosen.temperature)
            if "features" in job.losses:
                features = difference(made, taught, self.mean)
        return Losses(ce, kd, features)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return combine(self.fabric, value, "mean")

    def _anyone(self, asks: bool) -> bool:
        return bool(combine(self.fabric, torch.tensor(float(asks)), "sum") > 0)

    def _validate_if_due(self, meter: Meter) -> Evaluation | None:
        chosen, every = self.job.settings, self.job.settings.validate_steps
        due = self.step % (every or self.per_epoch) == 0 or self._is_last()
        if self.job.val is None or not due:
            return None
        start = time.perf_counter()
        self.validation = measure(
            self.fabric, self.network, self.job.val, self.job.preparation,
            max(1, self.size // self.fabric.world_size), chosen.val_samples, chosen.seed,
        )  # fmt: skip
        meter.pause(time.perf_counter() - start)
        return self.validation

    def _log(self, journal: Journal, meter: Meter, validated: Evaluation | None) -> None:
        self.last = meter.row(
            step=self.step,
            steps=self.total,
            batch=self.size,
            per_epoch=self.per_epoch,
            lr=self.optimizer.param_groups[0]["lr"],
            validation=validated,
        )
        if self.fabric.is_global_zero:
            journal.write(self.last)
            self.job.told(self.last)
        if not math.isfinite(self.last.loss):
            raise SettingsError(
                f"The loss is not finite at step {self.step} (lr={self.job.settings.rate}): give a "
                "smaller lr, a longer warmup, or clip."
            )
