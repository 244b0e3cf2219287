"""A ratio for each stage: where ghosts cost the output least, at a part of the network's MACs.

A stage that is refitted makes up for those before it, so no stage can be judged alone (a sum of
what each does alone picks worse than one ratio for all). Whole conversions are: each is fitted on
some images and judged on others, and the choice goes from neighbour to better neighbour.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product

import torch
from torch import nn

from ghostify.data.calibration import batch_size
from ghostify.data.spool import Spool
from ghostify.distributed import sum_over_processes
from ghostify.errors import SettingsError
from ghostify.graph.calls import call
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import to_single
from ghostify.numerics.ranking import exceeds
from ghostify.passes.g_ghost import plan_g_ghost
from ghostify.passes.surgery import rewrite
from ghostify.passes.survey import Survey
from ghostify.plans import Plan
from ghostify.progress import Milestone, Progress, silent
from ghostify.saving.history import History, remember
from ghostify.settings import DEFAULT_RATIO, Calibration, GGhost
from ghostify.warmstart.allocation.budget import macs_of, unreachable
from ghostify.warmstart.reconstruct import outputs_apart
from ghostify.warmstart.start import warm_start_

RATIOS = (0.25, 0.375, 0.5, 0.625, 0.75)
"""Ratios that a stage can get."""

ENOUGH = 256
"""Images that a conversion is fitted to here, and as many that it is judged on."""

TRIES = 12
"""Conversions that are tried at most."""

MOST_STAGES = 7
"""Stages beyond which the choices are too many to list: five to the power of their number."""

Choice = tuple[float, ...]
"""A ratio for each stage."""


def choose_ratio(
    network: nn.Module,
    settings: GGhost,
    images: Spool,
    target_macs: float,
    survey: Survey,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> GGhost:
    """Settings with a ratio for each stage that leave a part of the network's MACs.

    Args:
        network: The trained network; it is not changed.
        settings: Which stages, and how; its ratio is what is chosen.
        images: Calibration images.
        target_macs: Part of the MACs to leave at most.
        survey: Of the network.
        seed: Of the fits.
        progress: Told what is done now.

    Raises:
        SettingsError: No choice of ratios leaves so little, the settings have one already, or the
            stages are too many.
    """
    if settings.ratio != DEFAULT_RATIO:
        raise SettingsError(
            f"ratio={settings.ratio!r} given beside target_macs, which chooses it: leave ratio."
        )
    stages = [stage.name for stage in plan_g_ghost(survey, settings)[0].stages]
    if len(stages) > MOST_STAGES:
        raise SettingsError(
            f"target_macs chooses ratios for up to {MOST_STAGES} stages, and there are "
            f"{len(stages)}: name some with only, or give the ratio."
        )
    total = macs_of(survey.count)
    saved = [_saved(name, settings, total, survey) for name in stages]
    choices = within(saved, math.ceil((1 - target_macs) * total))
    if not choices:
        raise unreachable(target_macs, total - sum(max(some.values()) for some in saved), total)
    fitted, judged = halves(images)

    tried, most = 0, min(TRIES, len(choices))

    def loss(choice: Choice) -> float:
        nonlocal tried
        shown = ", ".join(f"{n} {ratio:.3g}" for n, ratio in zip(stages, choice, strict=True))
        progress(Milestone(f"trying ghosts of {shown}", tried / most))
        tried += 1
        plan, _ = plan_g_ghost(survey, _with(settings, stages, choice))
        return _loss(network, plan, fitted, judged, seed)

    return _with(settings, stages, climb(choices, loss))


def _with(settings: GGhost, stages: Sequence[str], choice: Choice) -> GGhost:
    return replace(settings, ratio=dict(zip(stages, choice, strict=True)))


def _saved(name: str, settings: GGhost, total: int, survey: Survey) -> dict[float, int]:
    """MACs that a stage saves with each ratio; those with which it can't be rebuilt left out."""
    saved = {}
    for ratio in RATIOS:
        plan, after = plan_g_ghost(survey, replace(settings, keep=(), only=(name,), ratio=ratio))
        if plan.stages:
            saved[ratio] = total - macs_of(after)
    return saved


def within(saved: Sequence[Mapping[float, int]], least: int) -> list[Choice]:
    """The choices that save enough, and from which no stage's ratio can be lowered.

    Example:
        >>> within([{0.25: 1, 0.5: 2}, {0.25: 10, 0.5: 20}], 12)
        [(0.5, 0.25), (0.25, 0.5)]
    """
    found: list[Choice] = []
    ladders = [sorted(some) for some in saved]

    def saves_enough(choice: Choice) -> bool:
        return sum(some[ratio] for some, ratio in zip(saved, choice, strict=True)) >= least

    def lower(choice: Choice) -> Iterator[Choice]:
        for index, (ladder, ratio) in enumerate(zip(ladders, choice, strict=True)):
            step = ladder.index(ratio)
            if step:
                yield (*choice[:index], ladder[step - 1], *choice[index + 1 :])

    for choice in product(*ladders):
        if choice and saves_enough(choice) and not any(map(saves_enough, lower(choice))):
            found.append(choice)
    # The most even ones first: those are where to begin.
    return sorted(found, key=lambda choice: (max(choice) - min(choice), choice[::-1]))


def climb(choices: Sequence[Choice], loss: Callable[[Choice], float]) -> Choice:
    """From the first choice to better ones near it, until there is none or tries are used up.

    Args:
        choices: All that are allowed.
        loss: Of a choice; asked for once each.
    """
    known = {choices[0]: loss(choices[0])}
    best = choices[0]
    while len(known) < TRIES:
        left = [choice for choice in choices if choice not in known]
        if not left:
            break
        nearest = min(_distance(best, choice) for choice in left)
        near = [choice for choice in left if _distance(best, choice) == nearest]
        for choice in near[: TRIES - len(known)]:
            known[choice] = loss(choice)
        better = min(known, key=known.__getitem__)
        if not exceeds(known[best], known[better]):
            break
        best = better
    return best


def _distance(one: Choice, other: Choice) -> float:
    return sum(abs(a - b) for a, b in zip(one, other, strict=True))


def halves(images: Spool) -> tuple[Spool, Spool]:
    """Split into images to fit to, and others to judge on; where there are too few, the same.

    From all over: a loader may give them class by class.
    """
    rows = range(0, len(images), max(1, len(images) // (2 * ENOUGH)))[: 2 * ENOUGH]
    if len(rows) < ENOUGH:
        return images, images
    return images.part(rows[::2]), images.part(rows[1::2])


@torch.no_grad()
def _loss(network: nn.Module, plan: Plan, fitted: Spool, judged: Spool, seed: int) -> float:
    """How far the output of a fitted conversion is from the original's."""
    original = to_single(copy_network(network).eval())
    made = rewrite(original, plan)
    remember(made, History(plans=(plan,)))
    warm_start_(made, original, Calibration(fitted, seed=seed))
    size = batch_size(judged.take([0]), 128)
    parts = torch.stack(
        [outputs_apart(call(made, x), call(original, x)) for x in judged.batches(size)]
    )
    total = torch.stack([parts.sum(), parts.new_tensor(len(parts))]).double()
    sum_over_processes(total)  # all must choose the same
    return float(total[0] / total[1])
