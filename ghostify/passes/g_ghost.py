"""G-Ghost (Section 4): which stages of a network are rebuilt, and what that saves."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from typing import Any

from torch import nn

from ghostify.cost.figures import Cost, Count, add_costs
from ghostify.cost.ratios import saved
from ghostify.cost.run import Run
from ghostify.documents import counted
from ghostify.graph.failure import describe_error
from ghostify.graph.stages import Finding, NoStage, Stage, find_stages_in, fold_equal
from ghostify.graph.trace import LAYERS
from ghostify.nn.swap import Undo
from ghostify.passes.placing import find_place
from ghostify.passes.stage_build import (
    block_modules,
    build_stage,
    channel_step,
    complicated_channels,
    middle,
    thin_recipes,
)
from ghostify.passes.stage_surgery import put_in
from ghostify.passes.survey import Survey
from ghostify.passes.trial import same_end
from ghostify.plans import Kept, Plan, StageRebuild
from ghostify.settings import DEFAULT_RATIO, GGhost
from ghostify.settings.selectors import check_something_is_left, select_stages, value_for
from ghostify.thinning.slicers import NotScalable

STAGE = "stage"
WHOLE = "the network"
"""Name of what is left where nothing in the network looks like a stage."""
# Where thin widths don't work out (odd halves, shuffles), rounder ones may; where they don't either
# (heads of attention), the modules in which they don't keep their widths inside, or the blocks do.
_ROUNDER = (1, 2, 4, 8)


def plan_g_ghost(survey: Survey, settings: GGhost) -> tuple[Plan, Count]:
    """Decide which stages are rebuilt, and count the network that results.

    The decision is tried on the survey's meta copy: what doesn't run there is left as it is. The
    survey itself stays as it was.

    Returns:
        The plan, and the costs of the converted network.

    Raises:
        SettingsError: A selector matches no stage.
    """
    with rebuilt(survey, settings) as (plan, count):
        return plan, count


@contextmanager
def rebuilt(survey: Survey, settings: GGhost) -> Iterator[tuple[Plan, Count]]:
    """`plan_g_ghost`; inside, the survey's meta copy has the stages that were decided on."""
    finding = search_stages(survey, settings.min_blocks)
    wanted, resolved = _choose(finding, survey, settings)
    kept = [Kept(left.name, STAGE, left.reason) for left in finding.left]
    planned: list[StageRebuild] = []
    built: dict[str, nn.Module] = {}
    for stage in finding.stages:
        if stage.name not in wanted:
            kept.append(Kept(stage.name, STAGE, "not selected"))
            continue
        try:
            rebuild, module = _plan_stage(stage, survey.meta, settings)
        except NotScalable as reason:
            kept.append(Kept(stage.name, STAGE, str(reason)))
        else:
            planned.append(rebuild)
            built[rebuild.name] = module
    untraced = tuple(f"{s.module or 'the network'}: {s.where}" for s in survey.seen.stops)
    trial = _Trial(survey, built)
    try:
        works, broken, count = trial.run(planned)
        kept_stages = (*kept, *broken)
        yield Plan(resolved, (), untraced=untraced, stages=works, kept_stages=kept_stages), count
    finally:
        trial.clear()


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
    wanted = chosen["only"] - chosen["keep"]
    check_something_is_left(STAGE, settings.only, settings.keep, wanted)
    return wanted, replace(settings, **resolved)


def first_blocks(finding: Finding, survey: Survey) -> dict[str, nn.Module]:
    """The first module of each stage, by the stage's name; what predicates are asked about."""
    return {
        stage.name: survey.meta.get_submodule(stage.region.qualify(stage.blocks[0].modules[0]))
        for stage in finding.stages
    }


def search_stages(survey: Survey, min_blocks: int) -> Finding:
    """The stages of all parts of a network that trace; where there is nothing, the reason why."""
    stages: list[Stage] = []
    left: list[NoStage] = []
    longest = 0
    for region in survey.seen.regions:
        found = find_stages_in(
            region,
            survey.meta.get_submodule(region.name),
            survey.arguments_of(region.name),
            min_blocks,
        )
        left += found.left
        longest = max(longest, found.longest)
        for stage in found.stages:
            reason = _reason_to_leave(stage, survey.lazy)
            if reason is None:
                stages.append(stage)
            else:
                left.append(NoStage(stage.name, len(stage.blocks), reason))
    if not stages and not left:
        left.append(NoStage(WHOLE, longest, _why_nothing(survey, longest, min_blocks)))
    return Finding(tuple(stages), fold_equal(left), longest)


def _why_nothing(survey: Survey, longest: int, min_blocks: int) -> str:
    """Why a network has no stage, and nothing that looks like one."""
    if not any(isinstance(module, LAYERS) for module in survey.meta.modules()):
        return "it has no layers that mix channels"
    if survey.seen.stops and not survey.seen.regions:
        return f"nothing of it traces ({survey.seen.stops[0].where})"
    if not longest:
        return "no part of it turns one map into one map"
    return f"at most {counted(longest, 'block')} of one shape in a row, fewer than {min_blocks}"


def _reason_to_leave(stage: Stage, lazy: frozenset[str]) -> str | None:
    """Why the blocks of a stage can't be rebuilt, whatever the settings; None where they can."""
    if not all(block.modules for block in stage.blocks):
        return "a block of it has no module of its own"
    for block in stage.blocks:
        names = tuple(map(stage.region.qualify, block.modules))
        if any(name in names or name.startswith(tuple(f"{n}." for n in names)) for name in lazy):
            return "lazy: its shapes are unknown before a first forward pass"
    return None


def _plan_stage(stage: Stage, meta: nn.Module, settings: GGhost) -> tuple[StageRebuild, nn.Module]:
    """Plan one stage, and build the new one on the meta device.

    Raises:
        NotScalable: It can't be rebuilt.
    """
    place = find_place(stage, meta)
    names = [tuple(map(stage.region.qualify, block.modules)) for block in stage.blocks]
    has_functions = any(block.functions for block in stage.blocks)
    if has_functions and settings.tail == "thin":
        raise NotScalable("its forward has functions between the blocks' modules (tail is thin)")
    if has_functions and stage.region.values is not None:
        raise NotScalable("its forward has functions between the blocks' modules, and no trace")
    nodes = tuple(tuple(node.name for node in block.nodes) for block in stage.blocks)
    rebuild = StageRebuild(
        name=stage.name,
        place=place.module,
        absorbed=place.absorbed,
        blocks=tuple(names),
        in_shape=stage.in_shape,
        out_shape=stage.shape,
        channels=stage.channels,
        complicated=0,
        ratio=value_for(stage.name, settings.ratio, DEFAULT_RATIO),
        functions=(stage.region.name, nodes) if has_functions else None,
        channels_last=stage.channels_last,
        from_input=stage.from_input,
    )
    first_reason: NotScalable | None = None
    for attempt, rounder in product(_ways(rebuild), _ROUNDER):
        try:
            return attempt(meta, settings, settings.divisor * rounder)
        except NotScalable as reason:
            first_reason = first_reason or reason
    assert first_reason is not None
    raise first_reason


_Attempt = Callable[[nn.Module, GGhost, int], tuple[StageRebuild, nn.Module]]


def _ways(rebuild: StageRebuild) -> tuple[_Attempt, ...]:
    """Ways to rebuild a stage, thinnest first."""
    shallow = replace(rebuild, thin_inside=False)
    return (
        partial(_with_divisor, rebuild),
        partial(_widened, rebuild),
        partial(_with_divisor, shallow),
    )


def _widened(
    rebuild: StageRebuild, meta: nn.Module, settings: GGhost, divisor: int
) -> tuple[StageRebuild, nn.Module]:
    """The stage with blocks in which as few modules as possible keep their inner widths."""
    while True:
        try:
            return _with_divisor(rebuild, meta, settings, divisor)
        except NotScalable as reason:
            block = middle(block_modules(meta, rebuild), rebuild, settings)[0]
            more = [n for n in reason.within if n not in rebuild.wide and _holds_layers(block, n)]
            if not more:
                raise
            rebuild = replace(rebuild, wide=(*rebuild.wide, more[-1]))


def _holds_layers(block: nn.Module, name: str) -> bool:
    """Whether a module of a block has layers in it (and is none itself)."""
    modules = dict(block.named_modules())
    inner = modules[name].modules() if name in modules else ()
    return any(isinstance(module, LAYERS) for module in inner if module is not modules[name])


def _with_divisor(
    rebuild: StageRebuild, meta: nn.Module, settings: GGhost, divisor: int
) -> tuple[StageRebuild, nn.Module]:
    blocks = block_modules(meta, rebuild)
    channels = rebuild.channels
    step = channel_step(blocks, rebuild, settings, divisor)
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


@dataclass(frozen=True)
class _Trial:
    """Stages that were put into the meta copy, one after the other."""

    survey: Survey
    built: Mapping[str, nn.Module]
    changes: list[Undo] = field(default_factory=list)

    def run(
        self, planned: Sequence[StageRebuild]
    ) -> tuple[tuple[StageRebuild, ...], list[Kept], Count]:
        """Keep the stages that run and save something; take the others out again."""
        works, broken, run = self._keep_those_that_run(planned)
        count = run.count()
        costs, new_costs = self.survey.count.by_module(), count.by_module()
        saving = [item for item in works if _saves(item, costs, new_costs)]
        if len(saving) == len(works):
            return tuple(works), broken, count
        for item in works:
            if item not in saving:
                broken.append(Kept(item.name, STAGE, "the new stage would cost as much or more"))
        self.clear()
        works, also_broken, run = self._keep_those_that_run(saving)
        return tuple(works), [*broken, *also_broken], run.count()

    def _keep_those_that_run(
        self, planned: Sequence[StageRebuild]
    ) -> tuple[list[StageRebuild], list[Kept], Run]:
        for item in planned:
            self._put_in(item)
        run = self._forward()
        if same_end(self.survey.run, run):
            return list(planned), [], run
        self.clear()
        return self._one_by_one(planned)

    def _one_by_one(
        self, planned: Sequence[StageRebuild]
    ) -> tuple[list[StageRebuild], list[Kept], Run]:
        works: list[StageRebuild] = []
        broken: list[Kept] = []
        for item in planned:
            self._put_in(item)
            run = self._forward()
            if same_end(self.survey.run, run):
                works.append(item)
                continue
            self.changes.pop()()
            broken.append(Kept(item.name, STAGE, _failure(run)))
        return works, broken, self._forward()

    def _put_in(self, item: StageRebuild) -> None:
        self.changes.append(put_in(self.survey.meta, item, self.built[item.name]))

    def clear(self) -> None:
        """Take all of them out again."""
        while self.changes:
            self.changes.pop()()

    def _forward(self) -> Run:
        return self.survey.run.again(self.survey.meta)


def _failure(run: Run) -> str:
    if run.error is None:
        return "with the new stage the network's output has another shape"
    return f"the network does not run with the new stage ({describe_error(run.error)})"


def _saves(item: StageRebuild, costs: Mapping[str, Cost], new_costs: Mapping[str, Cost]) -> bool:
    """Whether the new stage has fewer MACs; parameters, where MACs are unknown."""
    names = [name for block in item.blocks for name in block]
    before = add_costs(costs.get(name, Cost()) for name in names)
    after = new_costs.get(item.place, Cost())
    return saved(before, after) > 0
