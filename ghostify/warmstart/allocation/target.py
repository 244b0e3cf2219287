"""Plans that leave a part of the costs: calibration images read, and the mode's choice made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from ghostify.data.calibration import images_for
from ghostify.data.spool import Spool
from ghostify.graph.inputs import image_size
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import to_single
from ghostify.passes.planning import make_plan
from ghostify.passes.survey import Survey
from ghostify.plans import Plan, Replacement
from ghostify.progress import Progress
from ghostify.settings import Budgets, Calibration, CGhost, GGhost, Settings
from ghostify.warmstart.allocation.layers import CHOICES, choose_s
from ghostify.warmstart.allocation.parts import find_parts
from ghostify.warmstart.allocation.several import Form, check_reachable, choose_forms
from ghostify.warmstart.allocation.stages import choose_ratio

ALLOCATORS: dict[type[Settings], Callable[..., Settings]] = {CGhost: choose_s, GGhost: choose_ratio}
"""The function that chooses within MACs alone, by the settings class of the mode."""


def plan_within_budgets(
    network: nn.Module,
    settings: Settings,
    calibration: Calibration,
    budgets: Budgets,
    survey: Survey,
    progress: Progress,
) -> Plan:
    """The plan of least loss that leaves at most a part of the MACs, of the parameters, or of both.

    Args:
        network: The trained network; it is not changed.
        settings: What to convert; s or the ratio is what is chosen.
        calibration: Images, and how they are taken.
        budgets: What to leave.
        survey: Of the network.
        progress: Told what is done now.

    Raises:
        SettingsError: No choice leaves so little, or the settings have an s or ratio already.
        CalibrationError: The images can't be read.
    """
    choose = ALLOCATORS.get(type(settings)) if [*budgets.asked] == ["macs"] else None
    if choose is not None:
        images, kept = read_images(network, calibration, survey, progress)
        options: dict[str, Any] = {"seed": calibration.seed, "progress": progress}
        chosen = choose(network, settings, images, budgets.macs, survey, **options)
        plan, _ = make_plan(survey, chosen, network)
        return replace(plan, calibration=kept, **budgets.options)
    parts = find_parts(survey, settings)
    forms, totals = parts.forms(), parts.totals([*budgets.asked])
    check_reachable(forms, totals, budgets.asked)  # before images are looked at
    needs = needs_of(totals, budgets.asked)
    images, kept = read_images(network, calibration, survey, progress)
    judged = worth_judging(forms, needs)
    losses = parts.losses(network, judged, images, calibration.seed, progress)
    found = choose_forms(parts.forms(losses), needs)
    if found is None:  # what no pass calls is not judged
        check_reachable(parts.forms(losses), totals, budgets.asked)
    return replace(parts.plan(found or (), {}), calibration=kept, **budgets.options)


def needs_of(totals: Mapping[str, float], targets: Mapping[str, float]) -> dict[str, float]:
    """What must be saved of each cost."""
    return {name: totals[name] - int(part * totals[name]) for name, part in targets.items()}


def worth_judging(forms: Sequence[Form], needs: Mapping[str, float]) -> list[Form]:
    """Forms with an s of at most twice the least with which the budgets can be kept to.

    What a layer loses is judged alone, and a very large s loses more than that says.
    """
    for s in CHOICES:
        some = up_to(forms, s)
        if choose_forms(some, needs) is not None:
            return up_to(forms, 2 * s)
    return [*forms]


def up_to(forms: Sequence[Form], s: float) -> list[Form]:
    """Forms of layers with at most an s, and all of stages."""
    return [f for f in forms if not isinstance(f.item, Replacement) or f.value <= s]


def read_images(
    network: nn.Module, calibration: Calibration, survey: Survey, progress: Progress
) -> tuple[Spool, Calibration]:
    """The calibration's images, and the calibration with them read."""
    teacher = to_single(copy_network(network).eval())
    images, _ = images_for(teacher, calibration, image_size(survey.count.inputs), progress)
    # A loader may be at its end now; a folder is read again, and what is said of it is noted.
    return images, calibration if calibration.is_folder else replace(calibration, images=images)
