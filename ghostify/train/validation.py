"""Validation during a run, and the best weights by it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from ghostify.data.pools import Pool
from ghostify.data.preparation import Preparation
from ghostify.train.evaluation import measure
from ghostify.train.measured import Measured
from ghostify.train.result import Validated
from ghostify.train.settings import FinetuneSettings

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class Validation(Protocol):
    """How a run is validated.

    Attributes:
        keeps_best: Whether the run ends with its best weights, not with its last.
    """

    @property
    def keeps_best(self) -> bool:
        """Whether the run ends with its best weights."""

    def measure(self, fabric: Fabric, network: nn.Module, size: int) -> Validated:
        """The figures of a network, in batches of a size (of all processes together)."""


@dataclass(frozen=True)
class Accuracy:
    """Validation by the accuracy on labelled images.

    Attributes:
        pool: The images.
        preparation: How they become the network's input.
        settings: How to tune.
    """

    pool: Pool
    preparation: Preparation
    settings: FinetuneSettings
    keeps_best = False

    def measure(self, fabric: Fabric, network: nn.Module, size: int) -> Validated:
        """Top-1, top-5 and mean loss."""
        chosen = self.settings
        share = max(1, size // fabric.world_size)
        return measure(
            fabric, network, self.pool, self.preparation, share, chosen.val_samples, chosen.seed
        )


@dataclass
class Best:
    """The best weights of a run, on the CPU, and what the metric gave of them.

    Attributes:
        step: The step after which they were the network's.
        measured: What the metric gave.
        before: What it gave before the first step.
        weights: The state of the network.
    """

    step: int = 0
    measured: Measured | None = None
    before: Measured | None = None
    weights: dict[str, Tensor] = field(default_factory=dict)

    def offer(self, step: int, measured: Measured, network: nn.Module) -> None:
        """Keep a network's weights if they are better than those that are kept."""
        self.before = self.before or measured
        if self.measured is None or measured.value > self.measured.value:
            self.step, self.measured = step, measured
            state = network.state_dict().items()
            self.weights = {name: value.detach().to("cpu", copy=True) for name, value in state}

    def state(self) -> dict[str, Any]:
        """Plain data for a checkpoint."""
        assert self.measured is not None and self.before is not None
        return {
            "step": self.step, "measured": dict(self.measured.figures),
            "before": dict(self.before.figures), "weights": self.weights,
        }  # fmt: skip

    @staticmethod
    def of(state: dict[str, Any]) -> Best:
        """What a checkpoint holds."""
        measured, before = (Measured(state[name]) for name in ("measured", "before"))
        return Best(state["step"], measured, before, state["weights"])
