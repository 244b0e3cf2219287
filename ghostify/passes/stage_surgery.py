"""Putting rebuilt stages into a network: into a copy of it, or in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from torch import nn

from ghostify.errors import GhostifyError
from ghostify.graph.shadow import copy_network, shadow
from ghostify.nn.start import move_hooks
from ghostify.passes.scaling import NotScalable
from ghostify.passes.stage_build import block_modules, build_stage, thin_recipes
from ghostify.plans import StageRebuild
from ghostify.settings import GGhost

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Changes = list[tuple[nn.Module, str, nn.Module]]
"""What was changed: parent, key, the module that was there."""


def rebuild_stages(model: ModuleT, stages: tuple[StageRebuild, ...], settings: GGhost) -> ModuleT:
    """A copy of ``model`` with the stages rebuilt.

    The whole is copied first: a hook in a block may hold any other part of the network.

    Raises:
        GhostifyError: The stages are not those of this network.
    """
    return rebuild_stages_(copy_network(model), stages, settings)


def rebuild_stages_(model: ModuleT, stages: tuple[StageRebuild, ...], settings: GGhost) -> ModuleT:
    """`rebuild_stages` in place; nothing is changed unless all of it can be."""
    hollow = shadow(model).eval()
    built = [_build(_blocks(model, hollow, i), hollow, i, settings) for i in stages]
    for item, stage in zip(stages, built, strict=True):
        put_in(model, item, stage)
    return model


def put_in(model: nn.Module, item: StageRebuild, stage: nn.Module) -> Changes:
    """Put a stage into its place, in place; returns what `take_out` undoes."""
    new = _replacements(model, item, stage)
    inside = set(stage.modules())
    changes: Changes = []
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None and child in new and parent not in inside:
                changes.append((parent, key, child))
    if _is_container(item):
        move_hooks(model.get_submodule(item.place), stage)
    for parent, key, child in changes:
        parent._modules[key] = new[child]
    return changes


def take_out(changes: Changes) -> None:
    """Undo `put_in`."""
    for parent, key, child in changes:
        parent._modules[key] = child


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
