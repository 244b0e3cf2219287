"""Result of a tuning, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import nn

from ghostify.documents import Document, Printable
from ghostify.documents.page import Page
from ghostify.train.accuracy import Evaluation
from ghostify.train.measured import Measured
from ghostify.train.result_page import finetuned_page
from ghostify.train.settings import FinetuneSettings

Validated: TypeAlias = Evaluation | Measured
"""Result of a validation: accuracy, or what the caller's metric gave."""


@dataclass(frozen=True)
class LogRow:
    """A line of the log: means over the steps since the last one.

    Attributes:
        step: Steps done.
        steps: Steps of the whole run.
        epoch: Passes over the data, with their fraction.
        lr: Learning rate of the last step.
        loss: Weighted sum of the parts.
        ce: Cross-entropy; None where it is not used, as the next two.
        kd: Distillation of logits.
        features: Distillation of features.
        images_per_second: Of all processes together, without validation.
        seconds_left: Until the last step, at this speed.
        validation: Where this step was followed by one.
        own: The caller's own losses by name: ``own``, or ``own/NAME`` where they are several.
    """

    step: int
    steps: int
    epoch: float
    lr: float
    loss: float
    ce: float | None
    kd: float | None
    features: float | None
    images_per_second: float
    seconds_left: float
    validation: Validated | None = None
    own: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finetuned(Printable):
    """Result of `finetune`: the tuned network, and how it was tuned.

    Attributes:
        model: The tuned network: a copy, in the mode and on the device of the one that was given.
        settings: How it was tuned.
        steps: Steps done, before a resume too.
        total_steps: Steps that were to be done.
        losses: What it was tuned by: of ``"ce"``, ``"kd"``, ``"features"``; the caller's own loss
            is ``"own"``, or ``"own/NAME"`` for each of its parts.
        points: Names of the places at which features were compared.
        last: The last line of the log; None where no step was done now.
        validation: The last validation, with a metric of the caller's the best; None without one.
        images: Images of the training data.
        seconds: Wall time of this process's part.
        interrupted: Whether it ended before its last step.
        notes: What a reader must know.
        before: What the caller's metric gave before the first step.
        best_step: The step whose weights these are, the best by that metric; None without one.
        log: The rows of the run's log, those before a resume too: their figures by column.
    """

    model: nn.Module
    settings: FinetuneSettings
    steps: int
    total_steps: int
    losses: tuple[str, ...]
    points: tuple[str, ...]
    last: LogRow | None
    validation: Validated | None
    images: int
    seconds: float
    interrupted: bool
    notes: tuple[str, ...] = ()
    before: Measured | None = None
    best_step: int | None = None
    log: tuple[Mapping[str, float], ...] = field(default=(), repr=False)

    def describe(self) -> tuple[str, ...]:
        """The result in sentences."""
        whose = "its" if "kd" in self.losses else "the teacher's"
        words = {
            "ce": "labels",
            "kd": "the teacher's logits",
            "features": f"{whose} features at {len(self.points)} places",
        }
        by = dict.fromkeys(words.get(name, "your loss") for name in self.losses)
        lines = [
            f"tuned {self.steps} of {self.total_steps} steps by {', '.join(by)} in "
            f"{self.seconds:.0f} s"
        ]
        if self.validation is not None:
            lines.append(f"validation: {self.validation}")
        if self.best_step is not None:
            lines.append(f"the weights are those of step {self.best_step}; before: {self.before}")
        return (*lines, *self.notes)

    def document(self) -> Document:
        """The sentences of `describe`."""
        return Document(footnotes=self.describe())

    def page(self) -> Page:
        """The result, the learning curves, and what the conversion saved."""
        return finetuned_page(self)
