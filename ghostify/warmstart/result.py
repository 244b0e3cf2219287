"""What a warm start did, as data."""

from __future__ import annotations

from dataclasses import dataclass

from ghostify.numerics.ranking import ranked
from ghostify.saving.history import Start

POOR = 0.5
"""Relative error from which a layer's ghosts are said not to explain the original."""


@dataclass(frozen=True)
class LayerFit:
    """How well one ghost module explains the layer it stands for.

    Attributes:
        name: Qualified name of the layer.
        error: Energy of the difference to the original's output, as a part of the output's variance
            (0: the same, 1: no better than its mean), for the inputs that the converted network
            gives. Without data: for white inputs, from the weights. None of a dead layer, whose
            maps are constant.
        refitted: Whether the primary convolution was fitted to the data too.
        held_out: The same for images that it was not fitted to; None without such images.
    """

    name: str
    error: float | None
    refitted: bool
    held_out: float | None = None

    @property
    def judged(self) -> float:
        """Its error for images that were not fitted to, if known; 0 of a dead layer."""
        return (self.error if self.held_out is None else self.held_out) or 0.0


@dataclass(frozen=True)
class WarmStart:
    """What a warm start did.

    Attributes:
        layers: The ghost modules that were fitted, in the network's order.
        stages: The G-Ghost stages that were fitted; their error is that of the ghost channels.
        samples: Calibration images; 0 without data.
        block_steps: Steps of reconstruction, of all blocks together.
        network_steps: Steps of reconstruction of the network as a whole.
        seconds: Wall time.
        notes: What a reader must know.
    """

    layers: tuple[LayerFit, ...]
    samples: int
    stages: tuple[LayerFit, ...] = ()
    block_steps: int = 0
    network_steps: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def poor(self) -> tuple[LayerFit, ...]:
        """The layers that their ghosts don't explain, worst first: candidates for ``keep``."""
        found = [fit for fit in self.layers if fit.judged > POOR]
        return tuple(ranked(found, lambda fit: fit.judged))

    @property
    def fitted(self) -> str:
        """How much was fitted, in words."""
        counts = {"layers": len(self.layers), "stages": len(self.stages)}
        return " and ".join(f"{n} {what}" for what, n in counts.items() if n) or "nothing to fit"

    def describe(self) -> tuple[str, ...]:
        """The result in sentences, for the notes of a report."""
        given = f"{self.samples} images, no labels" if self.samples else "weights and norms alone"
        lines = [f"warm start from {given}: {self.fitted} in {self.seconds:.0f} s"]
        if self.block_steps or self.network_steps:
            lines.append(
                f"reconstruction: {self.block_steps} steps on blocks, "
                f"{self.network_steps} on the whole network; the errors are those before it"
            )
        for stage in self.stages:
            held_out = "" if stage.held_out is None else f" ({stage.held_out:.2f} held out)"
            lines.append(
                f"{stage.name}: the ghosts leave {stage.judged:.2f}{held_out} of the variance of "
                "their channels unexplained"
            )
        if self.poor:
            names = ", ".join(f"{fit.name} ({fit.judged:.2f})" for fit in self.poor[:5])
            more = ", ..." if len(self.poor) > 5 else ""
            lines.append(
                f"ghosts explain less than half of {len(self.poor)} layers: {names}{more}; "
                "keep them to lose less"
            )
        return (*lines, *self.notes)

    def summary(self) -> Start:
        """What is kept of it with the network."""
        return Start(
            {fit.name: fit.error for fit in self.layers},
            self.describe(),
            {fit.name: fit.held_out for fit in self.layers if fit.held_out is not None},
        )
