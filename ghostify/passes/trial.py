"""Which ghost modules a network can't run with, found by running its shadow."""

from __future__ import annotations

import traceback
from collections.abc import Mapping

from torch import nn

from ghostify.cost.run import Run
from ghostify.graph.failure import describe_error
from ghostify.nn.ghost import GhostConv2d, GhostLinear
from ghostify.passes.surgery import swap_


def find_offenders(
    hollow: nn.Module, before: Run, after: Run, layers: Mapping[str, nn.Module]
) -> dict[str, str]:
    """Names of ghost modules to put back, with the reason; empty when the network runs as before.

    Args:
        hollow: The rewritten shadow.
        before: The forward pass of the original.
        after: The forward pass of the rewritten shadow.
        layers: The layers that were replaced, by name.
    """
    if not layers or same_end(before, after):
        return {}
    reason = _reason(after)
    culprit = _culprit(after.error, hollow) if not after.pretend_cpu else None
    if culprit is not None and culprit in layers:
        return {culprit: reason}
    return _search(hollow, before, layers, reason)


def same_end(before: Run, after: Run) -> bool:
    """Whether both passes ran through to equal shapes, or stopped at the same place."""
    return before.stopped == after.stopped and before.output == after.output


def _reason(run: Run) -> str:
    if run.error is None:
        return "with a ghost module here the network's output has another shape"
    return f"the network does not run with a ghost module here ({describe_error(run.error)})"


def _culprit(error: Exception | None, hollow: nn.Module) -> str | None:
    """The ghost module whose weight was asked for, or in whose forward the error arose."""
    names = {module: name for name, module in hollow.named_modules()}
    asked = getattr(error, "obj", None)
    if isinstance(asked, GhostConv2d | GhostLinear):
        return names.get(asked)
    frames = traceback.walk_tb(error.__traceback__) if error is not None else ()
    owners = [frame.f_locals.get("self") for frame, _ in frames]
    ghosts = [owner for owner in owners if isinstance(owner, GhostConv2d | GhostLinear)]
    return names.get(ghosts[-1]) if ghosts else None


def _search(
    hollow: nn.Module, before: Run, layers: Mapping[str, nn.Module], reason: str
) -> dict[str, str]:
    """Start from the original and put the ghost modules in one by one, where the network runs."""
    ghosts = {name: hollow.get_submodule(name) for name in layers}
    for name, layer in layers.items():
        swap_(hollow, ghosts[name], layer)
    offenders = {}
    for name, layer in layers.items():
        swap_(hollow, layer, ghosts[name])
        if not same_end(before, before.again(hollow)):
            swap_(hollow, ghosts[name], layer)
            offenders[name] = reason
    return offenders
