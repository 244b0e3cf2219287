"""The losses of a step and their weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ghostify.train.settings import FinetuneSettings

NAMES = ("ce", "kd", "features")

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
    """The parts of a step's loss; None for those that are not used.

    Attributes:
        ce: Cross-entropy.
        kd: Distillation of logits.
        features: Distillation of features.
    """

    ce: Tensor | None
    kd: Tensor | None
    features: Tensor | None

    def total(self, weights: LossWeights) -> Tensor:
        """Their weighted sum."""
        parts = [(getattr(self, name), weights[name]) for name in NAMES]
        return torch.stack([part * weight for part, weight in parts if part is not None]).sum()

    def detach(self) -> Losses:
        """The values, without what made them."""
        values = {name: getattr(self, name) for name in NAMES}
        return Losses(**{n: None if v is None else v.detach() for n, v in values.items()})

    @staticmethod
    def mean(all_of_them: Sequence[Losses]) -> Losses:
        """The mean of the parts of several."""

        def part(name: str) -> Tensor | None:
            values = [getattr(losses, name) for losses in all_of_them]
            return None if values[0] is None else torch.stack(values).mean()

        return Losses(*(part(name) for name in NAMES))
