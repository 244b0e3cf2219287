"""What is wanted of a layer, and what serves as well because the activation after it hides it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from torch import Tensor


@dataclass(frozen=True)
class Targets:
    """The original's values, and for each the range of values that the next activation makes it.

    After a ReLU all negative values are the same. So a fit need not reproduce them: it is free to
    use its few numbers for the others. (He and others do so when they factorise layers,
    *Accelerating Very Deep Convolutional Networks*, 2015.)

    Attributes:
        wanted: The original's values.
        least: The smallest value that serves, for each.
        most: The largest. Both are the wanted value where the activation is not constant; None
            where no activation with a constant part follows.
    """

    wanted: Tensor
    least: Tensor | None = None
    most: Tensor | None = None

    @classmethod
    def within(cls, wanted: Tensor, low: Tensor, high: Tensor) -> Targets:
        """Targets of an activation that is constant below ``low`` and above ``high``.

        Example:
            >>> import torch
            >>> targets = Targets.within(torch.tensor([-2., 3.]), torch.zeros(2), torch.ones(2))
            >>> targets.nearest(torch.tensor([-5., 0.5])).tolist()
            [-5.0, 1.0]
            >>> targets.nearest(torch.tensor([5., 2.])).tolist()
            [0.0, 2.0]
        """
        is_low, is_high = wanted <= low, wanted >= high
        least = wanted.masked_fill(is_low, -inf).where(~is_high, high)
        most = wanted.masked_fill(is_high, inf).where(~is_low, low)
        return cls(wanted, least, most)

    def nearest(self, made: Tensor) -> Tensor:
        """Of the values that serve, those nearest to what is made."""
        return self.wanted if self.least is None else made.clamp(self.least, self.most)

    @property
    def visible(self) -> Tensor:
        """The wanted values as the activation tells them apart: cut off at its bounds.

        Example:
            >>> import torch
            >>> Targets.within(torch.tensor([-2., 3.]), torch.zeros(2), torch.ones(2)).visible
            tensor([0., 1.])
        """
        if self.least is None or self.most is None:
            return self.wanted
        is_low, is_high = self.least == -inf, self.most == inf
        return self.wanted.where(~is_low, self.most).where(~is_high, self.least)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The wanted values, and the bounds where there are some."""
        if self.least is None or self.most is None:
            return (self.wanted,)
        return self.wanted, self.least, self.most

    @property
    def hides(self) -> bool:
        """Whether an activation with a constant part follows."""
        return self.least is not None

    def map(self, change: Callable[[Tensor], Tensor]) -> Targets:
        """The same targets, each of the tensors in another shape."""
        return Targets(*map(change, self.tensors))
