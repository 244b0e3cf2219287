"""From a plan to a rewritten network: ghost modules in the layers' places, all else as it was."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import nn

from ghostify.errors import GhostifyError
from ghostify.graph.shadow import memo_for_copy
from ghostify.nn.start import move_hooks
from ghostify.passes.rules import Layer, layer_shape, make_ghost
from ghostify.passes.stage_surgery import rebuild_stages, rebuild_stages_
from ghostify.plans import Plan, Replacement
from ghostify.settings import CGGhost, CGhost, GGhost

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def rewrite(model: ModuleT, plan: Plan) -> ModuleT:
    """A copy of ``model`` with the plan's ghost modules; ``model`` is not changed.

    The layers that are replaced are never copied: each becomes its ghost module wherever the model
    holds it (a layer used at several places stays one module, lists and hooks that hold it too).

    Raises:
        GhostifyError: The plan names a layer that the model doesn't have, or one unlike it.
    """
    if plan.stages:
        stages = _stage_settings(plan)
        converted = rebuild_stages(model, plan.stages, stages)
        return _put_in_(converted, build_ghosts(converted, plan))
    ghosts = build_ghosts(model, plan)
    memo = memo_for_copy(model) | {id(layer): ghost for layer, ghost in ghosts}
    converted = copy.deepcopy(model, memo)
    for layer, ghost in ghosts:
        move_hooks(layer, ghost, memo)
    return converted


def rewrite_(model: ModuleT, plan: Plan) -> ModuleT:
    """`rewrite` in place; returns ``model``. Nothing is changed unless all of it can be."""
    ghosts = build_ghosts(model, plan)  # before the stages: what is wrong must show by then
    if plan.stages:
        rebuild_stages_(model, plan.stages, _stage_settings(plan))
    return _put_in_(model, ghosts)


def _put_in_(model: ModuleT, pairs: Iterable[tuple[nn.Module, nn.Module]]) -> ModuleT:
    """Put ghost modules into their layers' places."""
    ghosts = dict(pairs)
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is not None and child in ghosts:
                parent._modules[key] = ghosts[child]
    for layer, ghost in ghosts.items():
        move_hooks(layer, ghost)
    return model


def swap_(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module into the place (or places) of another."""
    for parent in list(model.modules()):
        for key, child in parent._modules.items():
            if child is old:
                parent._modules[key] = new


def build_ghosts(model: nn.Module, plan: Plan) -> list[tuple[nn.Module, nn.Module]]:
    """Each layer of the plan and its ghost module; ``model`` is only read."""
    settings = plan.settings.c if isinstance(plan.settings, CGGhost) else plan.settings
    if not isinstance(settings, CGhost):
        return []
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for index, item in enumerate(plan.replaced):
        layer = _find(model, item)
        generator = _generator(layer, settings.seed + index)
        ghost = make_ghost(layer, item.s, item.d, settings.bias_mode, settings.init, generator)
        pairs.append((layer, ghost))
    return pairs


def _stage_settings(plan: Plan) -> GGhost:
    settings = plan.settings.g if isinstance(plan.settings, CGGhost) else plan.settings
    assert isinstance(settings, GGhost)
    return settings


def _generator(layer: Layer, seed: int) -> torch.Generator | None:
    device = layer.weight.device
    return None if device.type == "meta" else torch.Generator(device).manual_seed(seed)


def _find(model: nn.Module, item: Replacement) -> Layer:
    """The layer that an item of the plan names, checked to be the one that was planned for."""
    try:
        layer = model.get_submodule(item.name)
    except AttributeError as error:
        raise GhostifyError(
            f"The plan names {item.name!r}, which this network doesn't have: "
            "give the network (and its arguments) that the plan was made for."
        ) from error
    shape = layer_shape(layer) if isinstance(layer, nn.Conv2d | nn.Linear) else None
    planned = (item.in_channels, item.out_channels, item.kernel_size)
    if not isinstance(layer, nn.Conv2d | nn.Linear) or shape != planned:
        raise GhostifyError(
            f"{item.name!r} is a {type(layer).__name__} of {shape}, but the plan was made for a "
            f"{item.kind} of {planned} (input channels of a filter, outputs, kernel): "
            "give the network that the plan was made for."
        )
    return layer
