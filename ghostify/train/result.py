"""Result of a tuning, as data."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from ghostify.documents import Document, Printable
from ghostify.train.accuracy import Evaluation
from ghostify.train.settings import FinetuneSettings


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
    validation: Evaluation | None = None


@dataclass(frozen=True)
class Finetuned(Printable):
    """Result of `finetune`: the tuned network, and how it was tuned.

    Attributes:
        model: The tuned network: a copy, in the mode and on the device of the one that was given.
        settings: How it was tuned.
        steps: Steps done, before a resume too.
        total_steps: Steps that were to be done.
        losses: What it was tuned by: of ``"ce"``, ``"kd"``, ``"features"``.
        points: Names of the places at which features were compared.
        last: The last line of the log; None where no step was done now.
        validation: The last validation; None without one.
        images: Images of the training data.
        seconds: Wall time of this process's part.
        interrupted: Whether it ended before its last step.
        notes: What a reader must know.
    """

    model: nn.Module
    settings: FinetuneSettings
    steps: int
    total_steps: int
    losses: tuple[str, ...]
    points: tuple[str, ...]
    last: LogRow | None
    validation: Evaluation | None
    images: int
    seconds: float
    interrupted: bool
    notes: tuple[str, ...] = ()

    def describe(self) -> tuple[str, ...]:
        """The result in sentences."""
        words = {
            "ce": "labels",
            "kd": "the teacher's logits",
            "features": f"its features at {len(self.points)} places",
        }
        by = ", ".join(words[name] for name in self.losses)
        lines = [f"tuned {self.steps} of {self.total_steps} steps by {by} in {self.seconds:.0f} s"]
        if self.validation is not None:
            lines.append(f"validation: {self.validation}")
        return (*lines, *self.notes)

    def document(self) -> Document:
        """The sentences of `describe`."""
        return Document(footnotes=self.describe())
