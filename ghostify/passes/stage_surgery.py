"""Putting rebuilt stages into a network: into a copy of it, or in place."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from ghostify.errors import GhostifyError
from ghostify.graph.shadow import memo_for_copy, shadow
from ghostify.nn.start import move_hooks
from ghostify.nn.swap import Undo, replace_modules
from ghostify.passes.stage_build import block_modules, build_stage, thin_recipes
from ghostify.plans import StageRebuild
from ghostify.settings import GGhost
from ghostify.thinning.slicers import NotScalable

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def rebuild_stages(model: ModuleT, stages: tuple[StageRebuild, ...], settings: GGhost) -> ModuleT:
    """A copy of ``model`` with the stages rebuilt; the blocks that get thin are not copied whole.

    Raises:
        GhostifyError: The stages are not those of this network.
    """
    memo = memo_for_copy(model)
    hollow = shadow(model).eval()
    placed: dict[int, nn.Module] = {}
    for item in stages:
        # First and last block go along as copies, made with the memo of the whole.
        blocks = _blocks(model, hollow, item)
        ends = {0, len(blocks) - 1} if settings.tail == "full" else {0}
        parts = [copy.deepcopy(b, memo) if i in ends else b for i, b in enumerate(blocks)]
        stage = _build(parts, hollow, item, settings)
        for old, new in _replacements(model, item, stage).items():
            placed[id(old)] = new
        if _is_container(item):
            move_hooks(model.get_submodule(item.place), stage, memo)
    return copy.deepcopy(model, memo | placed)


def rebuild_stages_(
    model: nn.Module, stages: tuple[StageRebuild, ...], settings: GGhost
) -> list[Undo]:
    """`rebuild_stages` in place; nothing is changed unless all of it can be.

    Returns:
        What undoes it, to be called from the last to the first.
    """
    hollow = shadow(model).eval()
    built = [_build(_blocks(model, hollow, i), hollow, i, settings) for i in stages]
    return [put_in(model, item, stage) for item, stage in zip(stages, built, strict=True)]


def put_in(model: nn.Module, item: StageRebuild, stage: nn.Module) -> Undo:
    """Put a stage into its place, in place; returns what takes it out again."""
    if _is_container(item):
        move_hooks(model.get_submodule(item.place), stage)
    return replace_modules(model, _replacements(model, item, stage))


def _is_container(item: StageRebuild) -> bool:
    """Whether the stage's place is that of the module that held the blocks (which keep theirs)."""
    return all(item.place not in names for names in item.blocks)


def _replacements(
    model: nn.Module, item: StageRebuild, stage: nn.Module
) -> Mapping[nn.Module, nn.Module]:
    new = {model.get_submodule(name): nn.Identity() for name in item.absorbed}
    for identity in new.values():
        identity.training = stage.training
    return {**new, model.get_submodule(item.place): stage}


def _blocks(model: nn.Module, hollow: nn.Module, item: StageRebuild) -> list[nn.Module]:
    try:
        return block_modules(model, item, hollow)
    except Exception as error:
        raise GhostifyError(
            f"The plan names the stage {item.name!r}, which this network doesn't have ({error}): "
            "give the network (and its arguments) that the plan was made for."
        ) from error


def _build(blocks: list[Any], hollow: nn.Module, item: StageRebuild, settings: GGhost) -> nn.Module:
    try:
        recipes = thin_recipes(block_modules(hollow, item), item, settings)
        return build_stage(blocks, recipes, item, settings)
    except (NotScalable, RuntimeError) as error:
        raise GhostifyError(
            f"The stage {item.name!r} can't be rebuilt as planned ({error}): "
            "give the network that the plan was made for."
        ) from error
