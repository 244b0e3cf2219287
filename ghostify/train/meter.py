"""Means of the losses and the speed between two rows of the log."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from ghostify.train.losses import NAMES, Losses, LossWeights
from ghostify.train.result import LogRow, Validated
from ghostify.tuning.losses import Reduce


class Meter:
    """Adds up what the steps say, without waiting for the device.

    Args:
        reduce: The mean of a tensor over all processes.
    """

    def __init__(self, reduce: Reduce) -> None:
        self._reduce = reduce
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count, self._start, self._paused = 0, time.perf_counter(), 0.0

    def pause(self, seconds: float) -> None:
        """Leave some seconds out."""
        self._paused += seconds

    def add(self, losses: Losses, weights: LossWeights) -> None:
        """Add a step, whose losses had these weights."""
        for name, value in {"loss": losses.total(weights), **losses.parts}.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def row(
        self,
        *,
        step: int,
        steps: int,
        batch: int,
        per_epoch: int,
        lr: float,
        validation: Validated | None,
    ) -> LogRow:
        """The means over all processes; a new count begins."""
        means = self._reduce(torch.stack(list(self._sums.values())) / self._count).tolist()
        known = dict(zip(self._sums, means, strict=True))
        speed = self._count / max(time.perf_counter() - self._start - self._paused, 1e-9)
        self._reset()
        return LogRow(
            step=step,
            steps=steps,
            epoch=step / per_epoch,
            lr=lr,
            loss=known["loss"],
            ce=known.get("ce"),
            kd=known.get("kd"),
            features=known.get("features"),
            images_per_second=speed * batch,
            seconds_left=(steps - step) / speed,
            validation=validation,
            own={name: v for name, v in known.items() if name not in ("loss", *NAMES)},
        )
