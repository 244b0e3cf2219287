"""The best choice within a budget: what each layer becomes, at so many MACs or so much time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ghostify.cost.figures import Count
from ghostify.errors import SettingsError
from ghostify.numerics.ranking import first_smallest

STEPS = 20_000
"""Steps that a budget is divided into."""


@dataclass(frozen=True)
class Option:
    """What a layer can become.

    Attributes:
        s: Its s; 1 leaves it.
        cost: What the whole network then costs, all else as it was: a whole number of MACs, of
            nanoseconds, or of whatever the budget is in.
        loss: What that does to the network's output.
    """

    s: int
    cost: int
    loss: float


def macs_of(count: Count) -> int:
    """MACs of a network.

    Raises:
        SettingsError: They are not known.
    """
    if count.total.macs is None:
        raise SettingsError(
            f"target_macs needs MACs, and the network's forward pass stopped ({count.stopped}): "
            "give example_inputs that it takes."
        )
    return count.total.macs


def choose_within(
    options: Mapping[str, Sequence[Option]], total: int, target: float
) -> dict[str, int]:
    """The choice of least total loss that leaves at most a part of the network's MACs.

    Args:
        options: Of each layer.
        total: MACs of the network as it is.
        target: Part of them to leave at most.

    Raises:
        SettingsError: No choice leaves so little.
    """
    floor = total - sum(total - least for least in _least_costs(options).values())
    chosen = allocate_above(options, int(target * total) - floor)
    if chosen is None:
        raise unreachable(target, floor, total)
    return chosen


def allocate_above(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, int] | None:
    """`allocate`, where the budget is what may be spent above each layer's cheapest option."""
    least = _least_costs(options)
    return allocate(
        {
            name: [Option(o.s, o.cost - least[name], o.loss) for o in some]
            for name, some in options.items()
        },
        budget,
    )


def _least_costs(options: Mapping[str, Sequence[Option]]) -> dict[str, int]:
    return {name: min(option.cost for option in some) for name, some in options.items()}


def unreachable(target: float, least: int, total: int) -> SettingsError:
    """The error for a target that no choice leaves."""
    if least >= total:
        return SettingsError(
            f"target_macs={target} can't be reached: there is no layer whose ghosts would save "
            "any; leave target_macs, and the report says why each layer is left."
        )
    part = math.ceil(1000 * least / max(total, 1)) / 1000  # up: what it names can be given
    return SettingsError(
        f"target_macs={target} can't be reached: with most ghosts everywhere {part} of the MACs "
        "are left; give at least that."
    )


def _first_least(table: NDArray[np.float64]) -> NDArray[np.int64]:
    """In each column the first row of the least value, but for noise."""
    return first_smallest(torch.from_numpy(table)).numpy()


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, int] | None:
    """The s of each layer of least total loss, the cost at most ``budget``; None if none is.

    Dynamic programming over the budget, in steps that an option's cost is rounded up to.

    Example:
        >>> layers = {"a": [Option(1, 10, 0.0), Option(2, 5, 3.0)],
        ...           "b": [Option(1, 10, 0.0), Option(2, 5, 1.0)]}
        >>> allocate(layers, 15)
        {'a': 1, 'b': 2}
    """
    if budget < 0:
        return None
    step = max(budget / STEPS, 1.0)
    size = int(budget / step)
    best = np.zeros(size + 1)
    picks: list[np.ndarray] = []
    for choices in options.values():
        costs = [-int(-option.cost // step) for option in choices]
        table = np.full((len(choices), size + 1), np.inf)
        for row, cost, option in zip(table, costs, choices, strict=True):
            if cost <= size:
                row[cost:] = best[: size + 1 - cost] + option.loss
        picks.append(_first_least(table))
        best = table.min(0)
    if not np.isfinite(best[size]):
        return None
    chosen: dict[str, int] = {}
    left = size
    for (name, choices), pick in zip(reversed(list(options.items())), reversed(picks), strict=True):
        option = choices[int(pick[left])]
        chosen[name] = option.s
        left += int(-option.cost // step)
    return {name: chosen[name] for name in options}
