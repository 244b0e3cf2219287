"""What a network is tuned for: class scores, as teacher and labels tell them, or anything."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ghostify.data.pools import Batch, Pool
from ghostify.data.preparation import Preparation
from ghostify.train.checks import check_classes
from ghostify.train.features import logits_of
from ghostify.train.settings import FinetuneSettings
from ghostify.tuning.losses import distillation

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Objective(ABC):
    """What a network is tuned for. Beside it, features are distilled where there are points.

    Attributes:
        losses: Names of the losses that are used, ``features`` among them.
    """

    losses: tuple[str, ...]

    @property
    def own_losses(self) -> tuple[str, ...] | None:
        """Names of the losses where they are the caller's own."""
        return None

    @abstractmethod
    def inputs(self, batch: Any, fabric: Fabric) -> Any:
        """Of a batch what `compute` takes, on the device."""

    @abstractmethod
    def compute(self, network: nn.Module, inputs: Any) -> Any:
        """What student and teacher compute of it; the features are seen meanwhile."""

    @abstractmethod
    def parts(self, batch: Any, made: Any, told: Any, fabric: Fabric) -> Mapping[str, Tensor]:
        """The losses of a batch, but for the features.

        Args:
            batch: As the data gave it.
            made: What the student computed.
            told: What the teacher did; None without one.
            fabric: The engine.
        """

    @abstractmethod
    def ready_teacher(self, teacher: nn.Module) -> nn.Module:
        """The teacher in the mode in which it is watched."""


@dataclass(frozen=True)
class ClassScores(Objective):
    """Class scores: distilled from a teacher's, and compared with labels.

    Attributes:
        losses: Of ``ce``, ``kd``, ``features``.
        pool: The training images.
        preparation: How they become the network's input.
        settings: How to tune.
    """

    losses: tuple[str, ...]
    pool: Pool
    preparation: Preparation
    settings: FinetuneSettings

    def inputs(self, batch: Batch, fabric: Fabric) -> Tensor:
        """The images, ``(N, C, H, W)``."""
        x = self.preparation.normalise(fabric.to_device(batch[0]))
        if self.settings.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return x

    def compute(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """Class scores, ``(N, classes)``."""
        return logits_of(network(inputs))

    def parts(
        self, batch: Batch, made: Tensor, told: Tensor | None, fabric: Fabric
    ) -> dict[str, Tensor]:
        """Cross-entropy with the labels, and divergence from the teacher's scores."""
        labels, chosen = batch[1], self.settings
        found = {}
        if "ce" in self.losses and labels is not None:
            check_classes(self.pool, labels, made.shape[1])
            wanted = fabric.to_device(labels)
            found["ce"] = F.cross_entropy(made, wanted, label_smoothing=chosen.label_smoothing)
        if "kd" in self.losses and told is not None:
            found["kd"] = distillation(made, told, chosen.temperature)
        return found

    def ready_teacher(self, teacher: nn.Module) -> nn.Module:
        """The teacher in eval mode."""
        return teacher.eval()
