"""From a plan to a rewritten network: ghost modules in the layers' places, all else as it was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from ghostify.errors import GhostifyError
from ghostify.graph.meta_copy import copy_network, deepcopy_any, memo_for_copy
from ghostify.nn.start import move_hooks
from ghostify.nn.swap import Undo, replace_modules
from ghostify.passes.rules import Layer, is_layer, layer_shape, make_ghost
from ghostify.passes.stage_surgery import rebuild_stages_
from ghostify.plans import Plan, Replacement
from ghostify.settings import GGhost

ModuleT = TypeVar("ModuleT", bound=nn.Module)


def rewrite(model: ModuleT, plan: Plan) -> ModuleT:
    """A copy of ``model`` with the plan's ghost modules; ``model`` is not changed.

    A layer that is replaced becomes its ghost module wherever the model holds it (a layer used at
    several places stays one module, lists and hooks that hold it too); where no stage is rebuilt,
    it is never copied.

    Raises:
        GhostifyError: The plan names a layer that the model doesn't have, or one unlike it.
    """
    if plan.stages:  # copied whole first: a hook in a block may hold any other part of it
        return rewrite_(copy_network(model), plan)
    ghosts = build_ghosts(model, plan)
    memo = memo_for_copy(model) | {id(layer): ghost for layer, ghost in ghosts}
    converted: ModuleT = deepcopy_any(model, memo)
    for layer, ghost in ghosts:
        move_hooks(layer, ghost, memo)
    return converted


def rewrite_(model: ModuleT, plan: Plan) -> ModuleT:
    """`rewrite` in place; returns ``model``. Nothing is changed unless all of it can be."""
    _rewrite(model, plan)
    return model


@contextmanager
def rewritten(model: nn.Module, plan: Plan) -> Iterator[None]:
    """Inside, a network is rewritten in place; afterwards it is as it was."""
    undo = _rewrite(model, plan)
    try:
        yield
    finally:
        undo()


def _rewrite(model: nn.Module, plan: Plan) -> Undo:
    ghosts = build_ghosts(model, plan)  # before the stages: what is wrong must show by then
    changes: list[Undo] = []
    if plan.stages:
        changes += rebuild_stages_(model, plan.stages, _stage_settings(plan))
    changes.append(_put_in(model, ghosts))

    def undo() -> None:
        for change in reversed(changes):
            change()

    return undo


def _put_in(model: nn.Module, pairs: Sequence[tuple[nn.Module, nn.Module]]) -> Undo:
    """Put ghost modules into their layers' places, with their hooks."""
    for layer, ghost in pairs:
        move_hooks(layer, ghost)
    return replace_modules(model, dict(pairs))


def build_ghosts(model: nn.Module, plan: Plan) -> list[tuple[nn.Module, nn.Module]]:
    """Each layer of the plan and its ghost module; ``model`` is only read."""
    settings = plan.settings.layers
    if settings is None:
        return []
    pairs: list[tuple[nn.Module, nn.Module]] = []
    for index, item in enumerate(plan.replaced):
        layer = _find(model, item)
        generator = _generator(layer, settings.seed + index)
        ghost = make_ghost(
            layer, item.s, item.d, settings.bias_mode, settings.init, generator, item.divisor
        )
        pairs.append((layer, ghost))
    return pairs


def _stage_settings(plan: Plan) -> GGhost:
    settings = plan.settings.stages
    assert settings is not None, "a plan of stages has settings of stages"
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
    shape = layer_shape(layer) if is_layer(layer) else None
    planned = (item.in_channels, item.out_channels, item.kernel_size)
    if not is_layer(layer) or shape != planned:
        raise GhostifyError(
            f"{item.name!r} is a {type(layer).__name__} of {shape}, but the plan was made for a "
            f"{item.kind} of {planned} (input channels of a filter, outputs, kernel): "
            "give the network that the plan was made for."
        )
    return layer
