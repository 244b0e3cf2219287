"""Samples that no fit sees, and the strength of a ridge that they choose."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from torch import Tensor, nn

from ghostify.data.spool import Span
from ghostify.distributed import count_of_all, processes
from ghostify.numerics.ranking import exceeds
from ghostify.warmstart.fit.ridge import Solution, prior_alone, solve, unexplained_by
from ghostify.warmstart.fit.statistics import RegressionMoments

FitT = TypeVar("FitT")

FEW = 128
"""Below so many samples what is held out is missed: once it has chosen, all are fitted to."""

PART, PART_OF_FEW, MOST = 8, 4, 64
"""One of so many samples is held out, but no more than the last: they choose a few numbers."""

MARGIN = 0.1
"""By so much a stronger ridge must do better: where it does not, all samples are worth more."""

PRIOR = math.inf
"""In place of a ridge: the prior as it is, with offsets alone fitted."""


class RidgeChoices:
    """The strength of each fit's ridge: as held-out samples choose it, and remembered.

    A second fit of the same layers, to all samples, takes what the first one chose.
    """

    def __init__(self) -> None:
        self._chosen: dict[nn.Module, int] = {}

    def choose(
        self,
        layer: nn.Module,
        attempts: Sequence[Callable[[], FitT]],
        left: Callable[[FitT], float] | None,
    ) -> FitT:
        """Fit with stronger and stronger ridges, as long as held-out samples are better explained.

        The weakest is taken that is nearly as good as the best.

        Args:
            layer: What is fitted.
            attempts: Make the fit, the weakest ridge first.
            left: What a fit leaves of the held-out samples, 0 or less where that is as good as
                can be; None where there are none: it is the attempt chosen earlier, or the first.
        """
        if left is None:
            return attempts[self._chosen.get(layer, 0)]()
        fits: list[FitT] = []
        errors: list[float] = []
        for attempt in attempts:
            fits.append(attempt())
            errors.append(left(fits[-1]))
            if errors[-1] <= 0 or errors[-1] > min(errors):
                break
        enough = (1 + MARGIN) * min(errors)
        chosen = next(index for index, error in enumerate(errors) if not exceeds(error, enough))
        self._chosen[layer] = chosen
        return fits[chosen]

    def solve(
        self,
        layer: nn.Module,
        fitted: RegressionMoments,
        held_out: RegressionMoments,
        ridges: Sequence[float | Tensor],
        prior: Tensor,
        intercept: bool = True,
    ) -> Solution:
        """Fit a linear map, drawn to a prior as strongly as serves the held-out samples.

        Args:
            layer: What the map is for.
            fitted: The sums of the data.
            held_out: Those of the held-out samples.
            ridges: What is tried, ascending; see `solve`.
            prior: ``(groups, outputs, inputs)``.
            intercept: Whether there is an offset.
        """
        attempts = [partial(_solve, fitted, ridge, prior, intercept) for ridge in ridges]
        if not held_out.count:
            return self.choose(layer, attempts, None)
        return self.choose(layer, attempts, lambda f: float(unexplained_by(held_out, f).sum()))


def count_held_out(count: int) -> int:
    """How many of this process's samples are held out: the last ones of all processes together.

    Args:
        count: Of this process's samples; process r of p has every p-th, beginning with the r-th.

    Example:
        >>> [count_held_out(count) for count in (1, 2, 16, 512, 2048)]
        [0, 1, 4, 64, 64]
    """
    total, (rank, world) = count_of_all(count), processes()
    if total < 2 * world:
        return 0
    held_out = min(total // (PART_OF_FEW if total < FEW else PART), MOST)
    fitted = total - max(held_out, world)  # each process has some: all must do the same
    return count + (fitted - rank) // -world


def split_spans(spans: Sequence[Span], fitted: int, is_even: bool) -> tuple[list[Span], list[Span]]:
    """Divide batches into those that are fitted to and those that are held out.

    Args:
        spans: The samples of each batch.
        fitted: How many samples, the first ones, are fitted to.
        is_even: Whether a batch can be cut; else it is fitted to where its first sample is.

    Example:
        >>> split_spans([(0, 4), (4, 8)], 6, True)
        ([(0, 4), (4, 6)], [(6, 8)])
    """
    if not is_even:
        return [s for s in spans if s[0] < fitted], [s for s in spans if s[0] >= fitted]
    before = [(start, min(end, fitted)) for start, end in spans if start < fitted]
    return before, [(max(start, fitted), end) for start, end in spans if end > fitted]


def _solve(
    moments: RegressionMoments, ridge: float | Tensor, prior: Tensor, intercept: bool
) -> Solution:
    if isinstance(ridge, float) and ridge == PRIOR:
        return prior_alone(moments, prior, intercept)
    return solve(moments, ridge, prior, intercept)
