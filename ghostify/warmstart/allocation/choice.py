"""An s for each layer: where ghosts cost the output least, at a part of the network's MACs.

One s for all layers spends as much on a layer that the output hardly feels as on one that it lives
by. Here each layer's ghosts are judged by what they do to the output (`sensitivity`), and the best
choice within the budget is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ghostify.cost.figures import Count
from ghostify.errors import SettingsError
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.plans import Plan
from ghostify.settings import DEFAULT_S, CGhost
from ghostify.survey import Survey
from ghostify.warmstart.allocation.sensitivity import gradients, looks_at
from ghostify.warmstart.c_ghost.pairing import pair
from ghostify.warmstart.c_ghost.sequential import CHEAP_RIDGE
from ghostify.warmstart.least_squares.fit import explain
from ghostify.warmstart.spool import Spool

CHOICES = (2, 4)
"""Values of s that a layer can get, beside staying as it is. Larger ones lose what no later layer
makes up for: with 3, 6 and 8 among them a ResNet-56 kept less."""

STEPS = 20_000
"""Steps that a budget is divided into."""

Said = Callable[[str], None]


@dataclass(frozen=True)
class Option:
    """What a layer can become.

    Attributes:
        s: Its s; 1 leaves it.
        macs: What it then costs.
        loss: What that does to the network's output.
    """

    s: int
    macs: int
    loss: float


def allocate(options: Mapping[str, Sequence[Option]], budget: int) -> dict[str, int] | None:
    """The s of each layer of least total loss, with at most ``budget`` MACs; None if there is none.

    Dynamic programming over the budget, in steps that a layer's MACs are rounded up to.

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
        costs = [-int(-option.macs // step) for option in choices]
        table = np.full((len(choices), size + 1), np.inf)
        for row, cost, option in zip(table, costs, choices, strict=True):
            if cost <= size:
                row[cost:] = best[: size + 1 - cost] + option.loss
        picks.append(table.argmin(0))
        best = table.min(0)
    if not np.isfinite(best[size]):
        return None
    chosen: dict[str, int] = {}
    left = size
    for (name, choices), pick in zip(reversed(list(options.items())), reversed(picks), strict=True):
        option = choices[int(pick[left])]
        chosen[name] = option.s
        left += int(-option.macs // step)
    return {name: chosen[name] for name in options}


def choose_s(
    network: nn.Module,
    settings: CGhost,
    images: Spool,
    target_macs: float,
    look: Callable[[], Survey],
    *,
    seed: int = 0,
    said: Said = lambda _: None,
) -> CGhost:
    """Settings with an s for each layer that leave a part of the network's MACs.

    Args:
        network: The trained network; it is not changed.
        settings: Which layers, and how; its s is what is chosen.
        images: Calibration images.
        target_macs: Part of the MACs to leave at most.
        look: Surveys the network, anew at each call.
        seed: Of the labels that are drawn, and the places that are looked at.
        said: Told what is done now.

    Raises:
        SettingsError: No choice of s leaves so little, or the settings have an s already.
    """
    if settings.s != DEFAULT_S:
        raise SettingsError(
            f"s={settings.s!r} given beside target_macs, which chooses it: leave s."
        )
    plans = [plan_c_ghost(look(), replace(settings, s=s)) for s in CHOICES]
    before = look().count
    names = [item.name for item in plans[0][0].replaced if item.kind != "Linear"]
    losses = _losses(network, plans, names, images, seed, said)
    own = before.by_module()
    options = {
        name: [
            Option(1, own[name].macs or 0, 0.0),
            *(
                Option(s, after.by_module()[name].macs or 0, losses[name][s])
                for s, (plan, after) in zip(CHOICES, plans, strict=True)
                if s in losses[name]
            ),
        ]
        for name in losses
    }
    return _fill(settings, options, before, target_macs)


def _fill(
    settings: CGhost, options: Mapping[str, Sequence[Option]], before: Count, target: float
) -> CGhost:
    """The settings, with the best s of each layer."""
    total = before.total.macs or 0
    fixed = total - sum(choices[0].macs for choices in options.values())
    chosen = allocate(options, int(target * total) - fixed)
    if chosen is None:
        least = fixed + sum(min(option.macs for option in some) for some in options.values())
        raise SettingsError(
            f"target_macs={target} can't be reached: with the largest s everywhere "
            f"{least / max(total, 1):.3f} of the MACs are left; give at least that."
        )
    return replace(settings, s={**chosen, "*": DEFAULT_S})


def _losses(
    network: nn.Module,
    plans: Sequence[tuple[Plan, Count]],
    names: Sequence[str],
    images: Spool,
    seed: int,
    said: Said,
) -> dict[str, dict[int, float]]:
    """What ghosts of each s do to the output, for each layer that was seen at work."""
    teacher = copy.deepcopy(network).eval()
    said("feeling for each layer what the output makes of its errors")
    felt = gradients(teacher, names, images, seed)
    found: dict[str, dict[int, float]] = {}
    kernels = {item.name: item.d for item in plans[0][0].replaced}
    for name, sums, rows in looks_at(teacher, {n: kernels[n] for n in felt}, images, seed):
        said(f"judging ghosts of {name}")
        errors = torch.stack(
            [
                explain(sums.gram[g], sums.cross[g], sums.energy[g], CHEAP_RIDGE) / rows
                for g in range(len(sums.gram))
            ]
        )
        weight = felt[name].view(len(errors), 1, -1)
        found[name] = dict(_judge(name, errors * weight, plans))
    return found


def _judge(
    name: str, costs: Tensor, plans: Sequence[tuple[Plan, Count]]
) -> Iterator[tuple[int, float]]:
    groups, maps, _ = costs.shape
    for plan, _ in plans:
        item = next((item for item in plan.replaced if item.name == name), None)
        if item is not None:
            m = -(-groups * maps // item.s) // groups
            pairs = (pair(cost, m, item.s - 1) for cost in costs)
            yield item.s, float(sum(found.cost for found in pairs))
