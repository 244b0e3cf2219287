"""G-Ghost (Section 4): which stages of a network are rebuilt, and what that saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ghostify.cost.counting import Run
from ghostify.cost.figures import Count
from ghostify.graph.failure import describe_error
from ghostify.graph.stages import Finding, NoStage, Stage, find_stages_in
from ghostify.passes.placing import find_place
from ghostify.passes.scaling import NotScalable
from ghostify.passes.stage_build import (
    block_modules,
    build_stage,
    channel_step,
    complicated_channels,
    thin_recipes,
)
from ghostify.passes.stage_surgery import put_in, take_out
from ghostify.passes.trial import same_end
from ghostify.plans import Kept, Plan, StageRebuild
from ghostify.selection import select_stages, value_for
from ghostify.settings import DEFAULT_RATIO, GGhost
from ghostify.survey import Survey

STAGE = "stage"
# Where thin widths don't work out (odd halves, shuffles), rounder ones may.
_ROUNDER = (1, 2, 4, 8)


def plan_g_ghost(survey: Survey, settings: GGhost) -> tuple[Plan, Count]:
    """Decide which stages are rebuilt, and count the network that results.

    The decision is tried on the survey's shadow (which is rewritten): what doesn't run there is
    left as it is.

    Returns:
        The plan, and the costs of the converted network.

    Raises:
        SettingsError: A selector matches no stage.
    """
    finding = find_stages(survey, settings.min_blocks)
    wanted, resolved = _choose(finding, survey, settings)
    kept = [Kept(left.name, STAGE, left.reason) for left in finding.left]
    planned: list[StageRebuild] = []
    built: dict[str, nn.Module] = {}
    for stage in finding.stages:
        if stage.name not in wanted:
            kept.append(Kept(stage.name, STAGE, "not selected"))
            continue
        try:
            rebuild, module = _plan_stage(stage, survey.hollow, settings)
        except NotScalable as reason:
            kept.append(Kept(stage.name, STAGE, str(reason)))
        else:
            planned.append(rebuild)
            built[rebuild.name] = module
    untraced = tuple(f"{s.module or 'the network'}: {s.where}" for s in survey.tracing.stops)
    works, broken, count = _try(survey, planned, built)
    plan = Plan(
        settings=resolved,
        replaced=(),
        untraced=untraced,
        stages=works,
        kept_stages=(*kept, *broken),
    )
    return plan, count


def _choose(finding: Finding, survey: Survey, settings: GGhost) -> tuple[set[str], GGhost]:
    """The stages that are meant, and the settings with predicates turned into names."""
    stages = first_blocks(finding, survey)
    chosen = {"keep": set[str](), "only": set(stages)}
    resolved: dict[str, Any] = {}
    for option in ("keep", "only"):
        selectors = getattr(settings, option)
        if selectors:
            chosen[option] = select_stages(selectors, stages, option)
        if any(callable(selector) for selector in selectors):
            resolved[option] = tuple(sorted(chosen[option]))
    if isinstance(settings.ratio, Mapping):
        for pattern in settings.ratio:
            select_stages([pattern], stages, "ratio")
    return chosen["only"] - chosen["keep"], replace(settings, **resolved)


def first_blocks(finding: Finding, survey: Survey) -> dict[str, nn.Module]:
    """The first module of each stage, by the stage's name; what predicates are asked about."""
    return {
        stage.name: survey.hollow.get_submodule(stage.region.qualify(stage.blocks[0].modules[0]))
        for stage in finding.stages
    }


def find_stages(survey: Survey, min_blocks: int) -> Finding:
    """The stages of all parts of a network that trace."""
    stages: list[Stage] = []
    left: list[NoStage] = []
    for region in survey.tracing.regions:
        found = find_stages_in(
            region,
            survey.hollow.get_submodule(region.name),
            survey.arguments_of(region.name),
            min_blocks,
        )
        stages += found.stages
        left += found.left
    return Finding(tuple(stages), tuple(left))


def _plan_stage(
    stage: Stage, hollow: nn.Module, settings: GGhost
) -> tuple[StageRebuild, nn.Module]:
    """What becomes of a stage, and the new one on the meta device.

    Raises:
        NotScalable: It can't be rebuilt.
    """
    place = find_place(stage, hollow)
    names = [tuple(map(stage.region.qualify, block.modules)) for block in stage.blocks]
    has_functions = any(block.functions for block in stage.blocks)
    if has_functions and settings.tail == "thin":
        raise NotScalable("its forward has functions between the blocks' modules (tail is thin)")
    nodes = tuple(tuple(node.name for node in block.nodes) for block in stage.blocks)
    rebuild = StageRebuild(
        name=stage.name,
        place=place.module,
        absorbed=place.absorbed,
        blocks=tuple(names),
        in_shape=stage.in_shape,
        out_shape=stage.shape,
        channels=stage.shape[1],
        complicated=0,
        ratio=value_for(stage.name, settings.ratio, DEFAULT_RATIO),
        functions=(stage.region.name, nodes) if has_functions else None,
    )
    first_reason: NotScalable | None = None
    for rounder in _ROUNDER:
        try:
            return _with_divisor(rebuild, hollow, settings, settings.divisor * rounder)
        except NotScalable as reason:
            first_reason = first_reason or reason
    assert first_reason is not None
    raise first_reason


def _with_divisor(
    rebuild: StageRebuild, hollow: nn.Module, settings: GGhost, divisor: int
) -> tuple[StageRebuild, nn.Module]:
    blocks = block_modules(hollow, rebuild)
    channels = rebuild.channels
    step = channel_step(blocks, channels, settings, divisor)
    r = complicated_channels(channels, rebuild.ratio, step)
    if not 0 < r < channels:
        raise NotScalable(
            f"a ratio of {rebuild.ratio:g} leaves {r} of its {channels} channels (steps of {step})"
        )
    rebuild = replace(rebuild, complicated=r, divisor=divisor)
    try:
        recipes = thin_recipes(blocks, rebuild, settings)
        return rebuild, build_stage(blocks, recipes, rebuild, settings)
    except NotScalable:
        raise
    except Exception as error:
        raise NotScalable(f"it can't be rebuilt ({describe_error(error)})") from error


def _try(
    survey: Survey, planned: list[StageRebuild], built: Mapping[str, nn.Module]
) -> tuple[tuple[StageRebuild, ...], list[Kept], Count]:
    """Put the stages into the shadow and run it; those that break it are taken out again."""
    hollow, before = survey.hollow, survey.run
    undo = [(item, put_in(hollow, item, built[item.name])) for item in planned]
    run = before.again(hollow)
    if same_end(before, run):
        return tuple(planned), [], run.count()
    for _, changes in reversed(undo):
        take_out(changes)
    return _one_by_one(survey, planned, built, run)


def _one_by_one(
    survey: Survey, planned: list[StageRebuild], built: Mapping[str, nn.Module], failed: Run
) -> tuple[tuple[StageRebuild, ...], list[Kept], Count]:
    hollow, before = survey.hollow, survey.run
    works, broken = [], []
    for item in planned:
        changes = put_in(hollow, item, built[item.name])
        run = before.again(hollow)
        if same_end(before, run):
            works.append(item)
            continue
        take_out(changes)
        reason = "with the new stage the network's output has another shape"
        if run.error is not None:
            reason = f"the network does not run with the new stage ({describe_error(run.error)})"
        broken.append(Kept(item.name, STAGE, reason))
    return tuple(works), broken, before.again(hollow).count()
