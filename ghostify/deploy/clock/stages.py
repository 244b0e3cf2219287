"""The times of stages before and after, each alone."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from dataclasses import replace

from torch import nn

from ghostify.deploy.clock.stopwatch import LAYER_SECONDS, Stopwatch
from ghostify.deploy.contest import folder_inside, moved
from ghostify.deploy.parts import parts_of, programs_of
from ghostify.deploy.runtimes import Way
from ghostify.passes.surgery import rewrite
from ghostify.plans import LayerTime, Plan
from ghostify.progress import Progress, tell_each


def time_stages(
    network: nn.Module,
    plan: Plan,
    stopwatch: Stopwatch,
    form: str,
    progress: Progress,
) -> dict[str, LayerTime]:
    """Measure each stage of a plan alone, before and after; what can't be is left out.

    A stage is as its network makes it, so these times are in no table.

    Args:
        network: The original; it is not changed.
        plan: What would be done to it.
        stopwatch: For the network.
        form: Memory format.
        progress: Told what is done now.
    """
    if not plan.stages:
        return {}
    contest = replace(stopwatch.contest, seconds=4 * LAYER_SECONDS, precision=0.02)
    parts = {name: own for name, own in parts_of([plan])[0].items()
             if name in {stage.name for stage in plan.stages}}  # fmt: skip
    forms = {"before": stopwatch.network, "after": rewrite(stopwatch.network, plan).eval()}
    programs = {
        side: programs_of(
            contest.runtime.inference_form(own), stopwatch.args,
            {name: both[side] for name, both in parts.items()},
        )
        for side, own in forms.items()
    }  # fmt: skip
    found: dict[str, LayerTime] = {}
    both = [name for name in programs["before"] if name in programs["after"]]
    for name in tell_each(progress, both, "timing {}".format):
        with tempfile.TemporaryDirectory() as folder, suppress(Exception):
            works = {
                side: contest.runtime.prepare(
                    moved(own[name], stopwatch.device, None),
                    Way(contest.threads, form, folder_inside(folder, index)),
                )
                for index, (side, own) in enumerate(programs.items())
            }
            times = contest.alternate(works)
            before = times["before"].typical * 1e3
            found[name] = LayerTime(name, before, before * times["after"].ratio)
    return {stage.name: found[stage.name] for stage in plan.stages if stage.name in found}
