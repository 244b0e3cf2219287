"""Settings of a tuning, as data."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ghostify.errors import SettingsError
from ghostify.settings.base import check_choice, check_not_negative, check_number, check_whole

Optimizer = Literal["muon", "sgd", "adamw"]
Precision = Literal["fp32", "bf16", "fp16"]
Norms = Literal["batch", "frozen"]

RATES: dict[str, float] = {"muon": 0.02, "sgd": 0.04, "adamw": 2e-3}
"""Learning rate of each optimizer where none is given, for a batch of 128."""

FAR, LEAST = 0.6, 0.1
"""Relative distance of the class scores to the teacher's (norm of the difference over their norm)
from which on Muon's default rate is used in full, and the least part of it. Below, the rate is
proportional to the distance: a step of Muon changes weights by a part of their norm, however small
the gradient is."""

MOMENTA = {"muon": 0.8, "sgd": 0.9}
"""Momentum likewise; AdamW has PyTorch's."""


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of `finetune`.

    Attributes:
        epochs: Passes over the data; 10 where no steps are given either.
        steps: Steps of the optimizer, in place of ``epochs``.
        batch_size: Images of a step, of all processes and accumulated parts together.
        optimizer: ``"muon"`` (`ghostify.tuning.muon.Muon`), ``"sgd"`` (Nesterov) or ``"adamw"``.
        lr: Highest learning rate; by the optimizer (see `RATES`) where none is given, Muon's lower
            the closer the network's class scores are to the teacher's (see `FAR`).
        momentum: Of Muon and SGD; by the optimizer (see `MOMENTA`) where none is given.
        weight_decay: Of all parameters but norms and biases.
        warmup: Part of the steps in which the rate rises; then half a cosine lowers it to zero.
        ema: Decay of the average of the weights that is kept in their place; 0 for none.
        precision: ``"fp32"``, or ``"bf16"``, ``"fp16"`` for mixed precision.
        accumulate: Parts that a process works off a step's images in.
        clip: Largest norm of the gradient; 0 for any.
        channels_last: Whether images and kernels lie in memory with the channels last.
        temperature: Of the distillation's softmax.
        kd: Weight of the distillation of logits.
        features: Weight of the distillation of features at the converted places, at first; it falls
            evenly to zero.
        ce: Weight of the cross-entropy with the labels; where not given, 0.1 beside a teacher and 1
            without one.
        label_smoothing: Of the cross-entropy.
        norms: ``"batch"``: batch norms use the statistics of the batch, and learn them;
            ``"frozen"``: they keep the ones they have.
        sync_norms: Whether the batch of a norm is that of all processes.
        augment: Whether images are cropped and mirrored at random.
        workers: Processes that read images, where they are not kept in memory.
        seed: Of order, augmentation and dropout.
        log_steps: Steps between two rows of the log.
        validate_steps: Steps between two validations; at each epoch's end where not given.
        val_samples: Images of a validation, chosen by the seed; all where not given.
        checkpoint_steps: Steps between two checkpoints; none but the timed ones where not given.
        checkpoint_minutes: Minutes between two checkpoints.

    Raises:
        SettingsError: A value makes no sense.
    """

    epochs: int | None = None
    steps: int | None = None
    batch_size: int = 128
    optimizer: Optimizer = "muon"
    lr: float | None = None
    momentum: float | None = None
    weight_decay: float = 1e-4
    warmup: float = 0.05
    ema: float = 0.0
    precision: Precision = "fp32"
    accumulate: int = 1
    clip: float = 5.0
    channels_last: bool = False
    temperature: float = 4.0
    kd: float = 1.0
    features: float = 30.0
    ce: float | None = None
    label_smoothing: float = 0.0
    norms: Norms = "batch"
    sync_norms: bool = True
    augment: bool = True
    workers: int = 0
    seed: int = 0
    log_steps: int = 10
    validate_steps: int | None = None
    val_samples: int | None = None
    checkpoint_steps: int | None = None
    checkpoint_minutes: float = 5.0

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise SettingsError(
                f"epochs={self.epochs} and steps={self.steps} are both given: give one of them."
            )
        for name in ("epochs", "steps", "validate_steps", "val_samples", "checkpoint_steps"):
            if getattr(self, name) is not None:
                check_whole(name, getattr(self, name), 1)
        for name in ("batch_size", "accumulate", "log_steps"):
            check_whole(name, getattr(self, name), 1)
        for name in ("workers", "seed"):
            check_whole(name, getattr(self, name), 0)
        if self.lr is not None:
            check_number("lr", self.lr, 0, math.inf)
        for name in ("temperature", "checkpoint_minutes"):
            check_number(name, getattr(self, name), 0, math.inf)
        for name in ("kd", "features", "weight_decay", "clip"):
            check_not_negative(name, getattr(self, name), math.inf)
        if self.ce is not None:
            check_not_negative("ce", self.ce, math.inf)
        if self.momentum is not None:
            check_not_negative("momentum", self.momentum, 1)
        for name in ("warmup", "ema", "label_smoothing"):
            check_not_negative(name, getattr(self, name), 1)
        check_choice("optimizer", self.optimizer, tuple(RATES))
        check_choice("precision", self.precision, ("fp32", "bf16", "fp16"))
        check_choice("norms", self.norms, ("batch", "frozen"))
        if self.batch_size % self.accumulate:
            raise SettingsError(
                f"batch_size={self.batch_size} can't be split into accumulate={self.accumulate} "
                "equal parts: give a multiple."
            )

    @property
    def rate(self) -> float:
        """The highest learning rate, where nothing is known of the distance to a teacher."""
        return RATES[self.optimizer] if self.lr is None else self.lr

    @property
    def goes_with_distance(self) -> bool:
        """Whether the rate depends on how far the network is from its teacher."""
        return self.lr is None and self.optimizer == "muon"

    def rate_from(self, distance: float) -> float:
        """The highest learning rate at a distance from the teacher.

        Example:
            >>> chosen = FinetuneSettings()
            >>> [round(chosen.rate_from(distance), 4) for distance in (1.5, 0.3, 0.0)]
            [0.02, 0.01, 0.002]
        """
        if not self.goes_with_distance:
            return self.rate
        return self.rate * min(max(distance / FAR, LEAST), 1.0)

    @property
    def inertia(self) -> float:
        """The momentum."""
        return MOMENTA.get(self.optimizer, 0.0) if self.momentum is None else self.momentum

    def total_steps(self, per_epoch: int) -> int:
        """Steps of the whole run, where an epoch has ``per_epoch``."""
        if self.steps is not None:
            return self.steps
        return (10 if self.epochs is None else self.epochs) * per_epoch

    def beside(self, teacher: bool) -> FinetuneSettings:
        """These settings, with the weight of the labels that fits."""
        ce = (0.1 if teacher else 1.0) if self.ce is None else self.ce
        return replace(self, ce=ce)

    def decisive(self) -> dict[str, Any]:
        """The settings that the weights depend on, as plain data; how often to save is none."""
        data = asdict(self)
        for name in _INDIFFERENT:
            del data[name]
        return data


_INDIFFERENT = (
    "workers", "log_steps", "validate_steps", "val_samples", "checkpoint_steps",
    "checkpoint_minutes",
)  # fmt: skip
