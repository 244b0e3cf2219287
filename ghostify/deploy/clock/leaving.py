"""Never slower: what of a plan takes longer than it did is left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import nn

from ghostify.deploy.clock.choosing import measured_times, time_whole
from ghostify.deploy.clock.search import WholeTime
from ghostify.deploy.clock.stages import time_stages
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.timetable import Timetable, make_timetable
from ghostify.passes.survey import Survey
from ghostify.plans import Kept, LayerTime, MeasuredTimes, Plan
from ghostify.progress import Progress
from ghostify.settings import CGhost, Clock


def leave_what_is_slower(
    network: nn.Module,
    plan: Plan,
    clock: Clock,
    survey: Survey,
    stopwatch: Stopwatch,
    progress: Progress,
) -> Plan:
    """A plan without what takes longer in a runtime than it did, with the measured times.

    Layers and stages are judged alone; then the whole network is measured. As long as that is not
    faster than the original, beyond what chance explains, the half that saves least is left too.

    Args:
        network: The original; it is not changed.
        plan: What would be done to it.
        clock: The runtime.
        survey: Of the network.
        stopwatch: For the network.
        progress: Told what is done now.

    Raises:
        SettingsError: The file of times can't be used.
    """
    settings = plan.settings.layers or CGhost()
    items = {item.name: {item.s: item} for item in plan.replaced}
    timetable = make_timetable(network, survey, settings, items, clock, stopwatch, progress)
    found = {
        item.name: LayerTime(item.name, *(timetable.layers[item.name][s] for s in (1, item.s)))
        for item in plan.replaced
        if item.s in timetable.layers.get(item.name, {})
    }
    if timetable.is_here:
        stages = time_stages([plan], stopwatch, clock, timetable.conditions, True, progress)
        found |= {
            stage.name: LayerTime(stage.name, *(stages[stage.name][r] for r in (0.0, stage.ratio)))
            for stage in plan.stages
            if stage.name in stages
        }
    left = without(plan, slower(plan, found, clock.runtime))
    whole: WholeTime | None = None
    while timetable.is_here and (left.replaced or left.stages):
        progress("timing the whole network")
        whole = time_whole(network, left, stopwatch)
        if whole.high < 1:  # what chance explains is no gain, and ghosts lose something
            break
        left, whole = without(left, _half(left, found, clock.runtime)), None
    times = _times(timetable, left, found, whole, clock)
    return replace(left, times=times)


def slower(plan: Plan, found: Mapping[str, LayerTime], runtime: str) -> dict[str, str]:
    """What of a plan takes as long as it did, or longer; and the reasons."""
    reasons: dict[str, str] = {}
    for name in _parts(plan):
        time = found.get(name)
        if time is not None and time.after >= time.before:
            reasons[name] = f"not faster in {runtime}"
    return reasons


def _parts(plan: Plan) -> list[str]:
    """The names of what a plan replaces."""
    return [*(item.name for item in plan.replaced), *(stage.name for stage in plan.stages)]


def without(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """A plan that leaves some layers and stages, with the reasons."""
    layers = [item for item in plan.replaced if item.name in reasons]
    stages = [item for item in plan.stages if item.name in reasons]
    return replace(
        plan,
        replaced=tuple(item for item in plan.replaced if item.name not in reasons),
        stages=tuple(item for item in plan.stages if item.name not in reasons),
        kept=(*plan.kept, *(Kept(i.name, i.kind, reasons[i.name]) for i in layers)),
        kept_stages=(*plan.kept_stages, *(Kept(i.name, "stage", reasons[i.name]) for i in stages)),
    )


def explain_left(plan: Plan, reasons: Mapping[str, str]) -> Plan:
    """A plan in which layers that were left have these reasons."""
    kept = tuple(replace(item, reason=reasons.get(item.name, item.reason)) for item in plan.kept)
    return replace(plan, kept=kept)


def _half(plan: Plan, found: Mapping[str, LayerTime], runtime: str) -> dict[str, str]:
    """The half of a plan that saves least, and why it is left."""

    def saved(name: str) -> float:
        return found[name].before - found[name].after if name in found else 0.0

    names = sorted(_parts(plan), key=saved)
    reason = f"the whole network was not faster in {runtime} with it"
    return dict.fromkeys(names[: (len(names) + 1) // 2], reason)


def _times(
    timetable: Timetable,
    plan: Plan,
    found: Mapping[str, LayerTime],
    whole: WholeTime | None,
    clock: Clock,
) -> MeasuredTimes:
    done = set(_parts(plan))
    saved = sum(time.before - time.after for name, time in found.items() if name in done)
    predicted = max(1 - saved / timetable.total, 1e-3) if timetable.total else 1.0
    return measured_times(timetable, tuple(found.values()), predicted, whole, clock)
