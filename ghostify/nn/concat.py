"""The concat as a module: one node of a graph, which can be replaced."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Concat(nn.Module):
    """Maps of several parts, one after another.

    Args:
        sizes: How many channels of each part are used, the first.

    Shape:
        - Input: parts, ``(N, C_i, ...)`` each
        - Output: ``(N, sum(sizes), ...)``
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        super().__init__()
        self.sizes = tuple(sizes)

    def forward(self, *parts: Tensor) -> Tensor:
        """All parts in one tensor."""
        return torch.cat(self.used(parts), dim=1)

    def used(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Each part without its surplus."""
        pairs = zip(parts, self.sizes, strict=True)
        return [part if part.shape[1] == size else part[:, :size] for part, size in pairs]

    def extra_repr(self) -> str:
        """Text that ``print(model)`` shows."""
        return " + ".join(map(str, self.sizes))
