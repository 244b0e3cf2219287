"""The warm start of G-Ghost stages: channels chosen, blocks refitted, ghosts fitted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.data.spool import Spool
from ghostify.graph.calls import call
from ghostify.graph.meta_copy import meta_copy
from ghostify.graph.trace import BlockTracer
from ghostify.nn.filters import is_plain_conv
from ghostify.nn.g_ghost import GGhostStage, pool, select_inputs
from ghostify.passes.stage_build import Choice, block_modules, middle, thin_recipes
from ghostify.plans import StageRebuild
from ghostify.saving.history import history_of
from ghostify.settings import GGhost
from ghostify.thinning.channel_propagation import layers_inside
from ghostify.thinning.slicers import NotScalable
from ghostify.thinning.thin import ThinRecipe, build_thin
from ghostify.tuning.descent import Budget
from ghostify.warmstart.fit.sampling import PairedInputs, Window, by_group, pick
from ghostify.warmstart.fit.statistics import RegressionMoments
from ghostify.warmstart.g_ghost.channels import keep_inside, worst_explained
from ghostify.warmstart.g_ghost.mixing import ROWS, StageBatches, fit_ghosts
from ghostify.warmstart.g_ghost.refit import BlockPair, refit
from ghostify.warmstart.reconstruct import (
    tune_part,
)
from ghostify.warmstart.result import LayerFit


@dataclass(frozen=True)
class StagePair:
    """A stage to fit.

    Attributes:
        name: Name of the stage.
        stage: The G-Ghost stage in the converted network.
        item: Its entry in the plan.
        settings: Its settings.
        blocks: The original's blocks.
        meta_blocks: The same on the meta device.
        start: The original's first module of the stage.
        end: The original's last module of the stage.
    """

    name: str
    stage: GGhostStage
    item: StageRebuild
    settings: GGhost
    blocks: Sequence[nn.Module]
    meta_blocks: Sequence[nn.Module]
    start: nn.Module
    end: nn.Module


def find_stage_pairs(
    rebuilt: Sequence[StageRebuild], original: nn.Module, converted: nn.Module
) -> Iterator[StagePair]:
    """The stages that can be fitted: those whose blocks are modules."""
    if not rebuilt:
        return
    settings = history_of(converted).plans[-1].settings.stages
    assert settings is not None
    meta = meta_copy(original).eval()
    for item in rebuilt:
        if item.functions is not None:
            continue
        stage = converted.get_submodule(item.place)
        if isinstance(stage, GGhostStage) and stage.ghosts:
            yield StagePair(
                item.name,
                stage,
                item,
                settings,
                block_modules(original, item),
                block_modules(meta, item),
                original.get_submodule(item.blocks[0][0]),
                original.get_submodule(item.blocks[-1][-1]),
            )


@torch.no_grad()
def fit_stage(
    pair: StagePair,
    original: nn.Module,
    converted: nn.Module,
    images: Spool,
    batch: int,
    pairing: Callable[[Spool, Spool, int], PairedInputs],
) -> LayerFit:
    """Fit a stage: choose its channels, then refit it from front to end.

    The complicated channels are those that Y1 explains worst (by least squares, through the cheap
    operation's window); the thin blocks are cut anew for them. Then each block in turn is refitted
    towards the original's values on what the converted network gives it, and cheap operation (Eq.
    9) and mix (Eq. 11) are fitted at once to the original's ghost channels.
    """
    both = (
        _inputs_of(pair.start, original, images, batch),
        _inputs_of(pair.stage, converted, images, batch),
    )
    return _StageFit(pair, pairing(*both, batch)).run()


def tune_stage(
    pair: StagePair,
    original: nn.Module,
    converted: nn.Module,
    images: Spool,
    batch: int,
    budget: Budget,
    size: int,
    seed: int,
    held_out: int = 0,
) -> int:
    """Tune a stage so that, on what it now gets, it gives what the original's gave.

    Args:
        pair: The stage.
        original: The original network.
        converted: The converted network.
        images: The calibration images.
        batch: Images at a time.
        budget: Steps and seconds.
        size: Images of a step.
        seed: Of their choice.
        held_out: How many images, the last ones, no step sees.

    Returns:
        Number of steps.
    """
    start = time.perf_counter()
    with torch.no_grad():
        given = _inputs_of(pair.stage, converted, images, batch)
        targets = _inputs_of(pair.start, original, images, batch)
        for block in pair.blocks:
            targets = _each(block, targets, batch)
    left = replace(budget, seconds=budget.seconds - (time.perf_counter() - start))
    return tune_part([pair.stage], pair.stage, given, targets, left, size, seed, held_out)


class _StageFit:
    """One stage's fit: what goes into it in both networks, and the blocks done so far."""

    def __init__(self, pair: StagePair, inputs: PairedInputs) -> None:
        self.pair, self.inputs, self.stage = pair, inputs, pair.stage
        self.thin_blocks = list(middle(pair.blocks, pair.item, pair.settings))

    def run(self) -> LayerFit:
        """Fit it from front to end."""
        stage, blocks = self.stage, self.pair.blocks
        _refit_whole(blocks[0], stage.first, self.inputs)
        inputs = self._through(self.inputs, blocks[0], stage.first)
        y1 = inputs.student
        recipes = self._choose(inputs)
        features = [self._pooled(y1, inputs.batch)] if stage.mix_from == "all" else []
        inputs = replace(inputs, student=_each(stage.entering, y1, inputs.batch))
        choice = Choice(stage.chosen()[: stage.complicated])
        for index, (block, made) in enumerate(zip(self.thin_blocks, stage.thin, strict=True)):
            choice, recipes = self._choose_inside(index, inputs, choice, recipes)
            recipe = recipes[index]
            if not recipe.is_recorded:
                refit(_thin(block, made, recipe), inputs)
            inputs = self._through(inputs, block, made)
            features.append(self._pooled(inputs.student, inputs.batch))
        batches = StageBatches(y1, tuple(features), inputs.teacher, inputs)
        error, held_out = fit_ghosts(stage, batches)
        if stage.last is not None:
            concat = self._concat(inputs, batches)
            _refit_whole(blocks[-1], stage.last, replace(inputs, student=concat))
        return LayerFit(self.pair.name, error, refitted=True, held_out=held_out)

    def _recipes(self, choice: Choice | None) -> list[ThinRecipe]:
        pair = self.pair
        return thin_recipes(pair.meta_blocks, pair.item, pair.settings, choice)

    def _choose(self, inputs: PairedInputs) -> list[ThinRecipe]:
        """Choose the complicated channels, and cut the thin blocks for them."""
        stage = self.stage
        parts = [] if stage.cheap is None else list(stage.cheap.modules())
        conv = next((m for m in parts if isinstance(m, _ConvNd)), None)
        taps = 0 if conv is None else conv.weight[0, 0].numel()
        sampler = inputs.sampler(ROWS)

        def rows() -> Iterator[tuple[Tensor, Tensor]]:
            for x, given in inputs.batches():
                wanted, y1 = x, stage.as_maps(given)
                for block in self.thin_blocks:
                    wanted = block(wanted)
                wanted = stage.as_maps(wanted)
                places = sampler.sample(wanted.shape)
                target = wanted if conv is not None else wanted - y1
                seen = y1.new_zeros(1, len(y1) * len(places[0]), 0)
                if conv is not None:
                    seen = Window.of(conv).regressors(y1, places)
                yield seen, by_group(pick(target, *places), 1)

        moments = RegressionMoments.of(1, taps * stage.channels, stage.channels, rows())
        chosen = worst_explained(moments, taps, stage.complicated, stage.entry)
        return self._arrange(chosen)

    def _arrange(self, complicated: Tensor) -> list[ThinRecipe]:
        """Cut the stage for some complicated channels; as the conversion did where that fails."""
        plain = self._recipes(None)
        given = plain[-1].out_ids
        for channels in (complicated, complicated if given is None else given):
            try:
                recipes = self._recipes(Choice(channels))
            except NotScalable:
                continue
            if all(_gives(recipe, channels) for recipe in recipes):
                self._cut(channels, recipes)
                return recipes
        return plain

    def _cut(self, complicated: Tensor, recipes: list[ThinRecipe]) -> None:
        """Cut the stage's weights for some complicated channels."""
        stage = self.stage
        is_ghost = torch.ones(stage.channels, dtype=torch.bool)
        is_ghost[complicated] = False
        ghosts = is_ghost.nonzero().flatten()
        made = [build_thin(b, r) for b, r in zip(self.thin_blocks, recipes, strict=True)]
        for thin, new in zip(stage.thin, made, strict=True):
            thin.load_state_dict(new.state_dict())
        stage.set_order(torch.cat([complicated, ghosts]))
        if stage.cheap is not None and stage.entry == "project":
            conv = next(m for m in stage.cheap.modules() if isinstance(m, _ConvNd))
            select_inputs(conv, ghosts)

    def _choose_inside(
        self, index: int, inputs: PairedInputs, choice: Choice, recipes: list[ThinRecipe]
    ) -> tuple[Choice, list[ThinRecipe]]:
        """Choose what a thin block keeps inside, and cut it anew."""
        block, recipe = self.thin_blocks[index], recipes[index]
        if recipe.is_recorded:  # its code is one for inputs of one size: nothing is run of it
            return replace(choice, inside=(*choice.inside, {})), recipes
        graph = BlockTracer().trace(block)
        names = {str(node.target) for node in layers_inside(graph, block)} & set(recipe.cuts)
        inside = {name: block.get_submodule(name) for name in sorted(names)}
        widths = [
            (name, len(recipe.cuts[name].outputs))
            for name, conv in inside.items()
            if is_plain_conv(conv)
            and conv.groups == 1
            and len(recipe.cuts[name].outputs) < conv.out_channels
        ]
        found = keep_inside(block, graph, inputs, widths, choice.complicated)
        new = replace(choice, inside=(*choice.inside, found))
        try:
            cut_anew = self._recipes(new)
        except NotScalable:
            return replace(choice, inside=(*choice.inside, {})), recipes
        self.stage.thin[index].load_state_dict(build_thin(block, cut_anew[index]).state_dict())
        return new, cut_anew

    def _through(self, inputs: PairedInputs, block: nn.Module, made: nn.Module) -> PairedInputs:
        teacher, student = (
            _each(module, spool, inputs.batch)
            for module, spool in ((block, inputs.teacher), (made, inputs.student))
        )
        return replace(inputs, teacher=teacher, student=student)

    def _concat(self, inputs: PairedInputs, batches: StageBatches) -> Spool:
        """What the last block gets."""
        spools = (inputs.student, batches.y1, *batches.features)
        result = Spool()
        for out, y1, *features in zip(*(s.batches(inputs.batch) for s in spools), strict=True):
            size = [1] * (y1.ndim - 2)
            pooled = [self.stage.in_layout(f.view(*f.shape, *size)) for f in features]
            result.append(self.stage.join(out, y1, pooled))
        return result

    def _pooled(self, values: Spool, batch: int) -> Spool:
        return _each(lambda x: pool(self.stage.as_maps(x)).flatten(1), values, batch)


def _gives(recipe: ThinRecipe, channels: Tensor) -> bool:
    return recipe.out_ids is not None and torch.equal(recipe.out_ids, channels)


def _refit_whole(block: nn.Module, made: nn.Module, inputs: PairedInputs) -> None:
    """Refit a block that is as wide as the original, where it traces."""
    try:
        graph = BlockTracer().trace(block)
    except Exception:
        return
    refit(BlockPair(block, graph, made, graph, {}, {}), inputs)


def _thin(block: nn.Module, made: nn.Module, recipe: ThinRecipe) -> BlockPair:
    shortcuts = {name: cut.leaving for name, cut in recipe.shortcuts.items()}
    graph = BlockTracer().trace(block)
    return BlockPair(block, graph, made, recipe.graph, recipe.cuts, shortcuts)


def _each(module: Any, inputs: Spool, batch: int) -> Spool:
    outputs = Spool()
    for x in inputs.batches(batch):
        outputs.append(module(x))
    return outputs


class _Reached(Exception):
    """A forward pass came to where it is no longer needed."""


def _inputs_of(module: nn.Module, network: nn.Module, images: Spool, batch: int) -> Spool:
    """What a module of a network gets; nothing after it is computed."""
    inputs = Spool()

    def take(_: nn.Module, args: tuple[Any, ...]) -> None:
        inputs.append(args[0])
        raise _Reached

    handle = module.register_forward_pre_hook(take)
    try:
        for x in images.batches(batch):
            try:
                call(network, x)
            except _Reached:
                continue
    finally:
        handle.remove()
    return inputs


def outputs_beside(network: nn.Module, modules: Sequence[nn.Module], x: Any) -> list[Any]:
    """What some modules of a network give, in the order of their calls, and then the network."""
    with outputs_of(modules) as seen:
        output = call(network, x)
    return [*seen, output]


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """What some modules give, in the order of their calls."""
    seen: list[Any] = []
    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_hook(lambda _, args, out: seen.append(out))
            stack.callback(handle.remove)
        yield seen
