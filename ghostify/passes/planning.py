"""From a survey and settings to a plan, and what a network costs once a plan was followed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from ghostify.cost.counting import count
from ghostify.cost.figures import Count
from ghostify.errors import SettingsError
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.cg_ghost import plan_cg_ghost
from ghostify.passes.g_ghost import plan_g_ghost
from ghostify.passes.surgery import rewrite, rewritten
from ghostify.passes.survey import Survey
from ghostify.plans import Plan
from ghostify.settings import Auto, CGGhost, CGhost, GGhost, Settings

Planner = Callable[[Survey, Any], tuple[Plan, Count]]


def _plan_auto(survey: Survey, settings: Auto) -> tuple[Plan, Count]:
    raise SettingsError(
        "mode='auto' chooses by what is asked for, and nothing is: give target_macs or "
        "target_params with calibration, or runtime, with target_latency or alone."
    )


PLANNERS: dict[type[Settings], Planner] = {
    CGhost: plan_c_ghost,
    GGhost: plan_g_ghost,
    CGGhost: plan_cg_ghost,
    Auto: _plan_auto,
}
"""The planner of each mode, by its settings class; a new mode is one more entry."""


def make_plan(survey: Survey, settings: Settings, network: nn.Module) -> tuple[Plan, Count]:
    """Decide what is replaced by what, and count the network that results.

    Args:
        survey: Of the network; it stays as it was.
        settings: What to convert, and how.
        network: The network itself; it is not changed.

    Raises:
        SettingsError: A selector matches nothing.
    """
    plan, after = PLANNERS[type(settings)](survey, settings)
    return plan, _to_the_end(after, survey, plan, network)


def count_after(survey: Survey, plan: Plan, network: nn.Module) -> Count:
    """Count a network as it would be once a plan was followed.

    Args:
        survey: Of the network; it stays as it was.
        plan: The plan.
        network: The network itself; it is not changed.

    Raises:
        GhostifyError: The plan is of another network.
    """
    with rewritten(survey.meta, plan):
        after = survey.run.again(survey.meta).count()
    return _to_the_end(after, survey, plan, network)


def _to_the_end(after: Count, survey: Survey, plan: Plan, network: nn.Module) -> Count:
    """A count that is whole wherever the original's is.

    A copy on the meta device that can't be led through to the end leaves one more way to know,
    where the original could be run for real: to convert it and run that.
    """
    if after.stopped is None or survey.count.stopped is not None:
        return after
    return count(rewrite(network, plan), survey.run.inputs.example)
