"""The times of stages as they are and in their other forms, each alone."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace

from torch import nn

from ghostify.deploy.clock.stopwatch import LAYER_SECONDS, Stopwatch
from ghostify.deploy.clock.table import LEFT, Forms, find_table, keep_table
from ghostify.deploy.contest import folder_inside, moved
from ghostify.deploy.parts import parts_of, programs_of
from ghostify.deploy.program import Program
from ghostify.deploy.runtimes import Way
from ghostify.passes.surgery import rewrite
from ghostify.plans import Conditions, Plan, StageRebuild
from ghostify.progress import Progress, tell_each
from ghostify.settings import Clock, GGhost

NOT_IN_FORM = frozenset({"ratio", "keep", "only", "min_blocks", "divisor"})
"""Settings that don't say how a stage is rebuilt, or that its row in the plan says."""


def time_stages(
    plans: Iterable[Plan],
    stopwatch: Stopwatch,
    clock: Clock,
    conditions: Conditions,
    is_here: bool,
    progress: Progress,
) -> dict[str, dict[float, float]]:
    """Milliseconds of each stage as it is (0) and with each ratio; what can't be timed is left out.

    They are looked up in the table; on the machine that it is of, what is missing is measured, the
    forms of a stage in alternation, and kept.

    Args:
        plans: What would be done to the network, a ratio each.
        stopwatch: For the network.
        clock: Where the table is.
        conditions: Of the table.
        is_here: Whether it is of this machine.
        progress: Told what is done now.
    """
    known = find_table(conditions, clock.table)
    asked: dict[str, dict[float, tuple[str, Plan]]] = {}
    signatures: dict[str, str] = {}
    for plan in plans:
        settings = plan.settings.stages
        for stage in plan.stages:
            assert settings is not None
            signatures[stage.name] = stage_signature(stopwatch.network, stage)
            form = stage_form(stage, settings)
            asked.setdefault(stage.name, {})[stage.ratio] = (form, plan)
    if is_here:
        missing = {
            name: {form: plan for form, plan in forms.values()
                   if form not in known.times.get(signatures[name], {})}
            for name, forms in asked.items()
        }  # fmt: skip
        missing = {name: forms for name, forms in missing.items() if forms}
        measured = _measure(missing, signatures, stopwatch, conditions.form, progress)
        if measured:
            known = known.with_times(measured)
            keep_table(known, clock.table)
    found: dict[str, dict[float, float]] = {}
    for name, forms in asked.items():
        times = known.times.get(signatures[name], {})
        own = {ratio: times[form] for ratio, (form, _) in forms.items() if form in times}
        if LEFT in times and own:
            found[name] = {0.0: times[LEFT], **own}
    return found


def stage_form(stage: StageRebuild, settings: GGhost) -> str:
    """How a stage is rebuilt, as the name of a form: its ratio, and what differs from the default.

    Example:
        >>> blocks = (("a",), ("b",), ("c",))
        >>> shape = (1, 8, 4, 4)
        >>> stage = StageRebuild("a", "a", ("b", "c"), blocks, shape, shape, 8, 4, ratio=0.5)
        >>> stage_form(stage, GGhost(entry="project"))
        'ratio=0.5, entry=project'
    """
    parts = [f"ratio={stage.ratio:g}"]
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.name not in NOT_IN_FORM and value != field.default:
            parts.append(f"{field.name}={value}")
    if stage.divisor > 1:
        parts.append(f"divisor={stage.divisor}")
    return ", ".join(parts)


def stage_signature(network: nn.Module, stage: StageRebuild) -> str:
    """What a stage's times follow from, as far as is known: its blocks, and what enters."""
    blocks = [[repr(network.get_submodule(n)) for n in names] for names in stage.blocks]
    kinds = [[type(network.get_submodule(n)).__qualname__ for n in names] for names in stage.blocks]
    digest = hashlib.sha256(repr((kinds, blocks)).encode()).hexdigest()[:16]
    shape = "x".join(map(str, stage.in_shape[1:]))
    return f"stage of {len(blocks)} blocks {digest} @ {shape}"


def _measure(
    wanted: Mapping[str, Mapping[str, Plan]],
    signatures: Mapping[str, str],
    stopwatch: Stopwatch,
    form: str,
    progress: Progress,
) -> dict[str, Forms]:
    """Times of stages by signature: as they are, and in some forms."""
    programs = _programs(wanted, stopwatch)
    contest = replace(stopwatch.contest, seconds=4 * LAYER_SECONDS, precision=0.02)
    found: dict[str, Forms] = {}
    usable = {n: forms for n, forms in programs.items() if LEFT in forms and len(forms) > 1}
    for name in tell_each(progress, list(usable), "timing {}".format):
        forms = usable[name]
        with tempfile.TemporaryDirectory() as folder, suppress(Exception):
            works = {
                key: contest.runtime.prepare(
                    moved(program, stopwatch.device, None),
                    Way(contest.threads, form, folder_inside(folder, index)),
                )
                for index, (key, program) in enumerate(forms.items())
            }
            times = contest.alternate(works)
            left = times[LEFT].typical * 1e3
            found[signatures[name]] = {key: left * timing.ratio for key, timing in times.items()}
    return found


def _programs(
    wanted: Mapping[str, Mapping[str, Plan]], stopwatch: Stopwatch
) -> dict[str, dict[str, Program]]:
    """Each stage as a program of its own, as it is and in some forms."""
    plans = {id(plan): plan for forms in wanted.values() for plan in forms.values()}
    found: dict[str, dict[str, Program]] = {name: {} for name in wanted}
    for plan in plans.values():
        parts = parts_of([plan])[0]
        own = {n: parts[n] for n, forms in wanted.items()
               if n in parts and any(each is plan for each in forms.values())}  # fmt: skip
        unseen = {n: both["before"] for n, both in own.items() if LEFT not in found[n]}
        if unseen:
            left = programs_of(stopwatch.inference_form(stopwatch.network), stopwatch.args, unseen)
            for name, program in left.items():
                found[name][LEFT] = program
        made = stopwatch.inference_form(rewrite(stopwatch.network, plan).eval())
        after = programs_of(made, stopwatch.args, {n: both["after"] for n, both in own.items()})
        for name, program in after.items():
            key = next(form for form, each in wanted[name].items() if each is plan)
            found[name][key] = program
    return found
