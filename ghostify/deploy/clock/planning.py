"""A plan that measured times decide."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from ghostify.deploy.clock.choosing import choose_within_time
from ghostify.deploy.clock.leaving import explain_left, leave_what_is_slower
from ghostify.deploy.clock.mixture import plan_fastest, plan_within_time
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.passes.planning import make_plan
from ghostify.passes.survey import Survey
from ghostify.plans import Plan
from ghostify.progress import Progress
from ghostify.settings import Auto, Budgets, Calibration, CGhost, Clock, Settings


def plan_by_clock(
    network: nn.Module,
    settings: Settings,
    calibration: Calibration | None,
    clock: Clock,
    budgets: Budgets,
    survey: Survey,
    stopwatch: Stopwatch,
    progress: Progress,
) -> Plan:
    """What of a network becomes what, decided by time: within a target, or never slower.

    Args:
        network: The trained network; it is not changed.
        settings: Of the conversion.
        calibration: Images that say what the output feels; None for data-free losses.
        clock: The runtime, and the time to keep to, if there is one.
        budgets: Parts of the MACs and parameters to leave at most beside a time.
        survey: Of the network.
        stopwatch: For the network.
        progress: Told what is done now.

    Raises:
        SettingsError: The time can't be kept to, or settings and clock don't go together.
    """
    progress(f"timing the original in {clock.runtime}")
    if clock.target is None:
        if isinstance(settings, Auto):
            plan = plan_fastest(network, settings, clock, survey, stopwatch, progress)
        else:
            plan, _ = make_plan(survey, settings, network)
        plan = replace(plan, calibration=calibration)
        return leave_what_is_slower(network, plan, clock, survey, stopwatch, progress)
    if not isinstance(settings, CGhost) or budgets.asked:
        return plan_within_time(
            network, settings, calibration, clock, budgets, survey, stopwatch, progress
        )
    settings, calibration, reasons, times = choose_within_time(
        network, settings, calibration, clock, survey, stopwatch, progress
    )
    plan, _ = make_plan(survey, settings, network)
    return replace(explain_left(plan, reasons), calibration=calibration, times=times)
