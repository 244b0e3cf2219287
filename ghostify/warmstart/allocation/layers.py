"""An s for each layer: where ghosts cost the output least, at a part of the network's MACs.

One s for all layers spends as much on a layer that the output hardly feels as on one that it lives
by. Here each layer's ghosts are judged by what they do to the output, and the best choice within
the budget is taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.cost.figures import Count
from ghostify.data.spool import Spool
from ghostify.errors import GhostifyWarning, SettingsError
from ghostify.graph.failure import describe_error
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.ghost import intrinsic_channels
from ghostify.nn.modes import to_single
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.survey import Survey
from ghostify.plans import Plan
from ghostify.progress import Milestone, Progress, silent
from ghostify.settings import DEFAULT_S, CGhost
from ghostify.warmstart.allocation.budget import Option, choose_within, macs_of
from ghostify.warmstart.allocation.sensitivity import gradients, looks_at
from ghostify.warmstart.c_ghost.datafree import white_errors
from ghostify.warmstart.c_ghost.pairing import pair
from ghostify.warmstart.c_ghost.trial import CHEAP_RIDGE
from ghostify.warmstart.cold import FAILURES
from ghostify.warmstart.fit.ridge import map_costs

CHOICES = (2, 4, 8, 16)
"""Values of s that a layer can get, beside staying as it is."""

MANY_MAPS = 512
"""Among more maps ghosts are judged by a choice that is nearly the best, in half of the time."""

Planned = Mapping[int, tuple[Plan, Count]]
"""For each s: the plan with that s for all layers, and what it costs."""


def choose_s(
    network: nn.Module,
    settings: CGhost,
    images: Spool,
    target_macs: float,
    survey: Survey,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> CGhost:
    """Settings with an s for each layer that leave a part of the network's MACs.

    Args:
        network: The trained network; it is not changed.
        settings: Which layers, and how; its s is what is chosen.
        images: Calibration images.
        target_macs: Part of the MACs to leave at most.
        survey: Of the network.
        seed: Of the labels that are drawn, and the places that are looked at.
        progress: Told what is done now.

    Raises:
        SettingsError: No choice of s leaves so little, or the settings have an s already.
    """
    if settings.s != DEFAULT_S:
        raise SettingsError(
            f"s={settings.s!r} given beside target_macs, which chooses it: leave s."
        )
    before = survey.count
    total = macs_of(before)
    plans = _plans(settings, total, target_macs, survey)
    convolutions = [
        item.name
        for item in plans[CHOICES[0]][0].replaced
        if isinstance(network.get_submodule(item.name), _ConvNd)
    ]
    # What can't be reached is said before images are looked at: that may take minutes.
    unjudged = {name: dict.fromkeys(plans, 0.0) for name in convolutions}
    choose_within(_options(unjudged, before, plans), total, target_macs)
    losses = losses_of_ghosts(network, plans, convolutions, images, seed, progress)
    chosen = choose_within(_options(losses, before, plans), total, target_macs)
    return replace(settings, s={**chosen, "*": DEFAULT_S})


def _plans(settings: CGhost, total: int, target: float, survey: Survey) -> Planned:
    """What there is to choose from: up to twice the least s that would do for all layers.

    What a layer loses is judged alone, and a very large s loses more than that says, because no
    later layer makes up for it: a ResNet-56 at the MACs of s=2 kept less with 3, 6 and 8 among the
    choices; a ResNet-20 at those of s=4 kept more with 8 than without, and less with 12 and 16.
    """
    found: dict[int, tuple[Plan, Count]] = {}
    for s in range(CHOICES[0], CHOICES[-1] + 1):
        found[s] = plan_c_ghost(survey, replace(settings, s=s))
        if macs_of(found[s][1]) / total <= target:
            break
    some = [s for s in CHOICES if s <= 2 * max(found)]
    return {s: found.get(s) or plan_c_ghost(survey, replace(settings, s=s)) for s in some}


def _options(
    losses: dict[str, dict[int, float]], before: Count, plans: Planned
) -> dict[str, list[Option]]:
    """What each layer can become: it stays, or has one of the plans' s."""
    total, own = macs_of(before), before.by_module()
    options = {name: [Option(1, total, 0.0)] for name in losses}
    for s, (plan, after) in plans.items():
        costs, replaced = after.by_module(), {item.name for item in plan.replaced}
        for name in losses.keys() & replaced:
            macs = total - (own[name].macs or 0) + (costs[name].macs or 0)
            options[name].append(Option(s, macs, losses[name][s]))
    return options


def losses_of_ghosts(
    network: nn.Module,
    plans: Planned,
    names: Sequence[str],
    images: Spool,
    seed: int,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """What ghosts of each s do to the output, for each layer that was seen at work.

    Args:
        network: The trained network; it is not changed.
        plans: For each s a plan with it for all layers.
        names: The convolutions to judge.
        images: Calibration images.
        seed: Of the labels that are drawn, and the places that are looked at.
        progress: Told what is done now.
    """
    teacher = to_single(copy_network(network).eval())
    progress("feeling for each layer what the output makes of its errors")
    try:
        felt: dict[str, Tensor | None] = {**gradients(teacher, names, images, seed)}
    except FAILURES as error:
        _warn(error, "each layer's own errors")
        # Frozen now, and by hooks that failed half-way no longer what it was.
        teacher = to_single(copy_network(network).eval())
        felt = dict.fromkeys(names)
    try:
        return _judged(teacher, plans, felt, images, seed, progress)
    except FAILURES as error:
        _warn(error, "their weights alone")
        return losses_without_data(network, plans, names, progress)


def _warn(error: Exception, by_what: str) -> None:
    warnings.warn(
        f"What the output feels of each layer's errors can't be worked out "
        f"({describe_error(error)}): layers are judged by {by_what}.",
        GhostifyWarning,
        stacklevel=2,
    )


def _judged(
    teacher: nn.Module,
    plans: Planned,
    felt: Mapping[str, Tensor | None],
    images: Spool,
    seed: int,
    progress: Progress,
) -> dict[str, dict[int, float]]:
    """The losses of layers, by what the output feels of each map; else as parts of its variance."""
    found: dict[str, dict[int, float]] = {}
    kernels = {item.name: item.d for item in plans[CHOICES[0]][0].replaced}
    for name, sums, rows in looks_at(teacher, {n: kernels[n] for n in felt}, images, seed):
        progress(Milestone(f"judging ghosts of {name}", len(found) / len(felt)))
        errors = torch.stack(
            [
                map_costs(sums.gram[g], sums.cross[g], sums.energy[g], CHEAP_RIDGE) / rows
                for g in range(len(sums.gram))
            ]
        )
        own = felt[name]
        if own is None:
            weight = rows / sums.energy.sum().clamp_min(1e-30)
        else:
            weight = own.view(len(errors), 1, -1)
        found[name] = dict(_judge(name, errors * weight, plans))
    return found


@torch.no_grad()
def losses_without_data(
    network: nn.Module, plans: Planned, names: Sequence[str], progress: Progress
) -> dict[str, dict[int, float]]:
    """What ghosts of each s leave unexplained of each convolution's maps, for white inputs.

    It follows from the weights, and knows nothing of what the output feels: all layers count alike.

    Args:
        network: The trained network; it is not changed.
        plans: For each s a plan with it for all layers.
        names: The convolutions to judge.
        progress: Told what is done now.
    """
    found: dict[str, dict[int, float]] = {}
    for plan, _ in plans.values():
        for item in plan.replaced:
            conv = network.get_submodule(item.name)
            if item.name in names and item.name not in found and isinstance(conv, _ConvNd):
                text = f"judging ghosts of {item.name} from its weights"
                progress(Milestone(text, len(found) / len(names)))
                errors, energy = white_errors(conv, item.d)
                judged = _judge(item.name, errors, plans)
                found[item.name] = {s: loss / max(energy, 1e-30) for s, loss in judged}
    return found


def _judge(name: str, costs: Tensor, plans: Planned) -> Iterator[tuple[int, float]]:
    groups, maps, _ = costs.shape
    rounds = 1 if maps > MANY_MAPS else None
    for plan, _ in plans.values():
        item = next((item for item in plan.replaced if item.name == name), None)
        if item is not None:
            m = intrinsic_channels(groups * maps, item.s, item.divisor, groups) // groups
            pairs = (pair(cost, m, item.s - 1, rounds) for cost in costs)
            yield item.s, float(sum(found.cost for found in pairs))
