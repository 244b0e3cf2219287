"""The losses of a step and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ghostify.train.settings import FinetuneSettings

NAMES = ("ce", "kd", "features")
"""ghostify's own losses; a caller's are called ``own``, or ``own/NAME`` where they are several."""

LossWeights = Mapping[str, float]


def weights_at(step: int, total: int, settings: FinetuneSettings) -> LossWeights:
    """The weights of the losses at a step; that of the features falls to zero.

    At first, features tell each layer what it should do, which is most of what few steps reach. In
    the long run what a cheaper network does best is not what the original does on the way.

    Example:
        >>> chosen = FinetuneSettings(kd=1.0, ce=0.1, features=30.0)
        >>> weights_at(0, 100, chosen)["features"], weights_at(90, 100, chosen)["features"]
        (30.0, 3.0)
    """
    fixed = {name: getattr(settings, name) or 0.0 for name in NAMES}
    return fixed | {"features": settings.features * (total - step) / total}


@dataclass(frozen=True)
class Losses:
    """The parts of a step's loss.

    Attributes:
        parts: Each a single number, by its name.
    """

    parts: Mapping[str, Tensor]

    def total(self, weights: LossWeights) -> Tensor:
        """Their weighted sum; what has no weight of its own, as a caller's losses, counts once."""
        return torch.stack([v * weights.get(name, 1.0) for name, v in self.parts.items()]).sum()

    def detach(self) -> Losses:
        """The values, without what made them."""
        return Losses({name: value.detach() for name, value in self.parts.items()})

    @staticmethod
    def mean(all_of_them: Sequence[Losses]) -> Losses:
        """The mean of the parts of several, which have the same names."""
        names = all_of_them[0].parts
        return Losses({n: torch.stack([x.parts[n] for x in all_of_them]).mean() for n in names})
