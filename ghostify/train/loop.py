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
from torch import Tensor, nn

from ghostify.data.image_files import DataError
from ghostify.data.pools import LoaderPool, Part, Pool
from ghostify.errors import SettingsError
from ghostify.nn.memory_format import to_channels_last
from ghostify.nn.modes import eval_mode
from ghostify.numerics.chance import derive, permutation
from ghostify.numerics.random_state import seed_torch
from ghostify.train import checkpoint
from ghostify.train.engine import combine
from ghostify.train.features import Observed, check_alike
from ghostify.train.interrupts import Interrupts
from ghostify.train.journal import METRICS, Journal, own_columns
from ghostify.train.losses import Losses, LossWeights, weights_at
from ghostify.train.measured import Measured
from ghostify.train.meter import Meter
from ghostify.train.objective import Objective
from ghostify.train.optimize import make_average, make_optimizer, rate_at
from ghostify.train.points import Point
from ghostify.train.result import LogRow, Validated
from ghostify.train.settings import FinetuneSettings
from ghostify.train.validation import Best, Validation
from ghostify.tuning.global_norms import GlobalNorms
from ghostify.tuning.losses import difference
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
        objective: What it is tuned for.
        pool: Training images, or batches of any kind.
        validation: How it is validated, where it is.
        settings: How to tune.
        output: Folder for checkpoints and metrics.
        exceptions: Modules of the student that stay in eval mode.
        told: Told each row of the log.
    """

    student: nn.Module
    teacher: nn.Module | None
    points: tuple[Point, ...]
    objective: Objective
    pool: Pool
    validation: Validation | None
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
        self.step, self.rate = 0, chosen.rate
        self._distances: list[Tensor] = []
        self.validation: Validated | None = None
        keeps_best = job.validation is not None and job.validation.keeps_best
        self.best = Best() if keeps_best else None
        self.last: LogRow | None = None
        if chosen.channels_last:
            to_channels_last(job.student)
        self.average = make_average(job.student, chosen.ema)
        if self.average is not None:
            self.average.to(fabric.device)
        compute = job.objective.compute
        self.observed = Observed(job.student, [(p.student, p.side) for p in job.points], compute)
        self.wrapped, self.optimizer = fabric.setup(
            self.observed, make_optimizer(job.student, chosen)
        )
        self.teacher: Observed | None = None
        if job.teacher is not None:
            places = [(p.teacher, p.side) for p in job.points]
            taught = job.objective.ready_teacher(job.teacher)
            self.teacher = Observed(taught, places, compute).to(fabric.device)

    @property
    def network(self) -> nn.Module:
        """The network that the run makes: the average of the weights where there is one."""
        return self.job.student if self.average is None else self.average.module

    def _steps_per_epoch(self) -> int:
        pool, parts = self.job.pool, self._shares
        if not pool.splits:
            count = len(pool) // self.size
            if count < parts:
                raise DataError(
                    f"The loader has {count} batches, and a step takes {parts}: one for each "
                    "process and part (accumulate); give more."
                )
            return count // parts
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

    @property
    def _shares(self) -> int:
        """Parts of a step, of all processes."""
        return self.job.settings.accumulate * self.fabric.world_size

    def identity(self) -> dict[str, dict[str, Any]]:
        """Settings and checksums that must be the same for a run to go on."""
        pool = self.job.pool
        teacher = self.job.teacher
        return {
            "settings": {
                **self.job.settings.decisive(), "steps": self.total, "epochs": None,
                "loss": self.job.objective.own_losses, "metric": self.best is not None or None,
            },
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
            "rate": self.rate,
            "total": self.total,
            "model": self.job.student.state_dict(),
            "ema": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),
            "best": None if self.best is None else self.best.state(),
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
        self.step, self.rate = state["step"], state.get("rate", self.rate)
        if self.best is not None:
            self.best = Best.of(state["best"])
            self.validation = self.best.measured

    def save(self) -> None:
        """Write a checkpoint, where there is a place for it; rank 0 does."""
        if self.job.output is not None and self.fabric.is_global_zero:
            checkpoint.write_checkpoint(checkpoint.path_in(self.job.output), self.state())

    def begin(self) -> None:
        """Measure what the network is worth before its first step, where the best is kept."""
        if self.best is not None and self.step == 0:
            self._validate()

    def end(self) -> None:
        """Take the best weights, where they are kept."""
        if self.best is not None:
            self.network.load_state_dict(self.best.weights)
            self.validation = self.best.measured

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table of the run's metrics."""
        own = self.job.objective.own_losses
        if own is None and self.best is None:
            return METRICS
        figures = () if self.validation is None else tuple(self.validation.columns)
        return own_columns(("ce", "kd") if own is None else own, figures)

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
        shares = self._shares
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

    def _do_step(self, batches: Iterator[Any], weights: LossWeights) -> Losses:
        chosen, fabric = self.job.settings, self.fabric
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
        self._set_rate()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.average is not None:
            self.average.update_parameters(self.job.student)
        return Losses.mean(shown)

    def _set_rate(self) -> None:
        """Set the rate of this step; the first one sets the highest, by the distances measured."""
        chosen = self.job.settings
        if self._distances:
            self.rate = chosen.rate_from(float(torch.stack(self._distances).mean()))
            self._distances = []
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(self.step, self.total, self.rate, chosen.warmup)

    @torch.no_grad()
    def _distance(self, inputs: Any, teacher: Observed) -> Tensor:
        """Relative distance of the class scores to the teacher's, both networks in eval mode."""
        with eval_mode(self.job.student), self.fabric.autocast():
            (made, _), (told, _) = self.observed(inputs), teacher(inputs)
        return self.mean(difference(made, told, self.mean)).sqrt()

    def _losses(self, batch: Any) -> Losses:
        chosen, objective = self.job.settings, self.job.objective
        inputs = objective.inputs(batch, self.fabric)
        is_asked = self.step == 0 and chosen.goes_with_distance and "kd" in objective.losses
        if is_asked and self.teacher is not None:  # before the norms see a batch
            self._distances.append(self._distance(inputs, self.teacher))
        shared = chosen.sync_norms and self.fabric.world_size > 1 and chosen.norms == "batch"
        with GlobalNorms() if shared else contextlib.nullcontext():
            made, features = self.wrapped(inputs)
        told, taught = None, ()
        if self.teacher is not None:
            with torch.no_grad(), self.fabric.autocast():
                told, taught = self.teacher(inputs)
        parts = dict(objective.parts(batch, made, told, self.fabric))
        if "features" in objective.losses:
            check_alike(features, taught)
            parts["features"] = difference(features, taught, self.mean)
        return Losses(parts)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of a tensor over all processes."""
        return combine(self.fabric, value, "mean")

    def _anyone(self, asks: bool) -> bool:
        return bool(combine(self.fabric, torch.tensor(float(asks)), "sum") > 0)

    def _validate_if_due(self, meter: Meter) -> Validated | None:
        every = self.job.settings.validate_steps
        due = self.step % (every or self.per_epoch) == 0 or self._is_last()
        if self.job.validation is None or not due:
            return None
        start = time.perf_counter()
        found = self._validate()
        meter.pause(time.perf_counter() - start)
        return found

    def _validate(self) -> Validated:
        assert self.job.validation is not None
        found = self.validation = self.job.validation.measure(self.fabric, self.network, self.size)
        if self.best is not None:
            assert isinstance(found, Measured)
            self.best.offer(self.step, found, self.network)
        return found

    def _log(self, journal: Journal, meter: Meter, validated: Validated | None) -> None:
        self.last = meter.row(
            step=self.step,
            steps=self.total,
            batch=self.size if self.job.pool.splits else self.size * self._shares,
            per_epoch=self.per_epoch,
            lr=self.optimizer.param_groups[0]["lr"],
            validation=validated,
        )
        if self.fabric.is_global_zero:
            journal.write(self.last)
            self.job.told(self.last)
        if not math.isfinite(self.last.loss):
            raise SettingsError(
                f"The loss is not finite at step {self.step} (lr={self.rate:.3g}): give a "
                "smaller lr, a longer warmup, or clip."
            )
