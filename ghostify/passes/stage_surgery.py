"""Put rebuilt stages into a network, in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from ghostify.errors import GhostifyError
from ghostify.graph.meta_copy import meta_copy
from ghostify.nn.start import move_hooks
from ghostify.nn.swap import Undo, replace_modules
from ghostify.passes.stage_build import block_modules, build_stage, thin_recipes
from ghostify.plans import StageRebuild
from ghostify.settings import GGhost
from ghostify.thinning.slicers import NotScalable


def rebuild_stages_(
    model: nn.Module, stages: tuple[StageRebuild, ...], settings: GGhost
) -> list[Undo]:
    """Rebuild stages in place; nothing is changed unless all of it can be.

    Returns:
        What undoes it, to be called from the last to the first.

    Raises:
        GhostifyError: The stages are not those of this network.
    """
    meta = meta_copy(model).eval()
    built = [_build(_blocks(model, meta, i), meta, i, settings) for i in stages]
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


def _blocks(model: nn.Module, meta: nn.Module, item: StageRebuild) -> list[nn.Module]:
    try:
        return block_modules(model, item, meta)
    except Exception as error:
        raise GhostifyError(
            f"The plan names the stage {item.name!r}, which this network doesn't have ({error}): "
            "give the network (and its arguments) that the plan was made for."
        ) from error


def _build(blocks: list[Any], meta: nn.Module, item: StageRebuild, settings: GGhost) -> nn.Module:
    try:
        recipes = thin_recipes(block_modules(meta, item), item, settings)
        return build_stage(blocks, recipes, item, settings)
    except (NotScalable, RuntimeError) as error:
        raise GhostifyError(
            f"The stage {item.name!r} can't be rebuilt as planned ({error}): "
            "give the network that the plan was made for."
        ) from error
