"""The few verbs that users call."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, overload

from torch import nn

from ghostify import saving
from ghostify.cost.counting import count as count_costs
from ghostify.decision import Decision, chosen_settings, decide
from ghostify.errors import ModelError, SettingsError, shown
from ghostify.graph.inputs import ExampleInputs, image_size
from ghostify.graph.meta_copy import copy_network
from ghostify.numerics.surroundings import own_surroundings
from ghostify.passes.surgery import rewrite, rewrite_
from ghostify.passes.survey import survey
from ghostify.plans import Plan
from ghostify.progress import Progress, silent
from ghostify.reports.compare import describe
from ghostify.reports.conversion import Report
from ghostify.reports.stage_table import StageTable, tabulate_stages
from ghostify.saving import build, load, network_of
from ghostify.saving.history import (
    History,
    Source,
    history_of,
    name_of,
    remember,
)
from ghostify.settings import (
    CGGhost,
    CGhost,
    GGhost,
    Settings,
)

__all__ = [
    "build",
    "convert",
    "convert_",
    "decide",
    "find_stages",
    "load",
    "plan",
    "preview",
    "report",
    "save",
]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@own_surroundings()
def plan(model: nn.Module | str, settings: Settings | None = None, **options: Any) -> Plan:
    """Say what `convert` would do, as data, without converting.

    Takes what `convert` takes. ``report(model, plan=plan)`` has what it saves.

    Example:
        >>> [item.name for item in plan("resnet20-cifar", s=2, only="layer3.2").replaced]
        ['layer3.2.conv1', 'layer3.2.conv2']
    """
    return decide(network_of(model), settings, **options).plan


@own_surroundings()
def find_stages(
    model: nn.Module | str,
    settings: GGhost | CGGhost | None = None,
    *,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    **options: Any,
) -> StageTable:
    """The multi-block stages of a network, and what Eq. 13 and 14 promise of each (Section 4.3).

    Args:
        model: Any network, or the name of one (see `build`).
        settings: Settings as data, in place of ``options``.
        example_inputs: What its forward takes, for the costs; worked out if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        **options: Settings of G-Ghost (``ratio``, ``min_blocks``, ..., see `GGhost`).

    Example:
        >>> [stage.name for stage in find_stages("resnet20-cifar").stages]
        ['layer1', 'layer2', 'layer3']
    """
    network = network_of(model)
    chosen = chosen_settings(settings, GGhost.mode if settings is None else CGhost.mode, options)
    stages = chosen.stages
    if stages is None:
        raise SettingsError(f"mode={chosen.mode!r} knows no stages: give mode='g-ghost'.")
    return tabulate_stages(name_of(network), survey(network, example_inputs, input_size), stages)


@overload
def convert(model: str, settings: Settings | Plan | None = None, **options: Any) -> nn.Module: ...
@overload
def convert(model: ModuleT, settings: Settings | Plan | None = None, **options: Any) -> ModuleT: ...
@own_surroundings()
def convert(
    model: nn.Module | str, settings: Settings | Plan | None = None, **options: Any
) -> nn.Module:
    """Make a network cheaper: a converted copy of it, the original untouched.

    The copy is of the same class, with its methods, hooks, mode and names. C-Ghost puts ghost
    modules in the places of convolutions (Section 3.1), G-Ghost one `GGhostStage` in the place of
    each stage of several blocks (Section 4); both start from the weights that were there. What
    can't be converted is left as it is; `report` says what and why.

    Args:
        model: Any network, or the name of one (see `build`).
        settings: Settings as data (`CGhost`), or a `Plan` to follow; in place of ``mode`` and
            ``options``.
        **options: ``mode`` (``"c-ghost"``, ``"g-ghost"``, ``"cg-ghost"``, ``"auto"``) and its
            settings (see `CGhost`, `GGhost`, `CGGhost`, `Auto`), ``preset`` among them; and what
            `decide` takes: ``example_inputs``, or ``input_size=(C, H, W)``, that costs are for;
            ``calibration``, what the network takes without labels, ``"data-free"``, or a
            `Calibration`, for a warm start; ``inputs``, a function from a batch of that data to
            what the network takes; ``target_macs`` and ``target_params``, the part of the MACs and
            of the parameters to leave at most, in place of ``s`` or ``ratio``; ``runtime``, in
            which what does not get faster on this machine is left (with ``threads``, ``batch``,
            ``device``), and ``target_latency``, the part of the time (0.6) or the time (``"20ms"``)
            to take there at most, likewise; ``latency_table``, a file of measured times to use or
            to write; ``progress``, told what is done now.

    Returns:
        The converted network.

    Raises:
        SettingsError: A setting makes no sense, or a selector matches nothing.
        ModelError: The network can't be copied, or can't take the inputs that were given.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
        >>> cheaper = convert(net, mode="c-ghost", s=2)
        >>> type(cheaper[2]).__name__, type(net[2]).__name__
        ('GhostConv2d', 'Conv2d')
    """
    network = network_of(model)
    decided = decide(network, settings, **options)
    converted = rewrite(network, decided.plan)
    return _finish(converted, network, decided, options.get("progress"))


@own_surroundings()
def convert_(model: ModuleT, settings: Settings | Plan | None = None, **options: Any) -> ModuleT:
    """`convert` in place: ``model`` itself is changed, and returned.

    Nothing is changed unless all of it can be.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"convert_ changes a network in place, and {model!r} is none: give one.")
    decided = decide(model, settings, **options)
    original = model if decided.plan.calibration is None else copy_network(model)
    return _finish(rewrite_(model, decided.plan), original, decided, options.get("progress"))


@own_surroundings()
def preview(model: nn.Module | str, settings: Settings | None = None, **options: Any) -> Report:
    """Report what `convert` would save, without converting; takes the same arguments."""
    return decide(network_of(model), settings, **options).report


@own_surroundings()
def report(
    model: nn.Module | str,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    *,
    plan: Plan | None = None,
) -> Report:
    """Report what a conversion saved or would save, or the costs of a network as it is.

    Args:
        model: A network, or the name of one.
        example_inputs: For a network that was not converted: what its forward takes.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        plan: What would be done to the network (see `ghostify.plan`).

    Example:
        >>> from ghostify import plan
        >>> planned = plan("resnet20-cifar", s=2)
        >>> round(report("resnet20-cifar", plan=planned).ratios.macs, 1)
        1.9
    """
    network = network_of(model)
    if plan is not None:
        return decide(network, plan, example_inputs=example_inputs, input_size=input_size).report
    known = history_of(network).report
    if known is not None and example_inputs is None and input_size is None:
        return known
    counted = count_costs(network, example_inputs, input_size)
    return describe(name_of(network), network, counted)


def save(
    model: nn.Module,
    directory: str | Path,
    *,
    source: str | Source | None = None,
    program: bool = False,
    example_inputs: ExampleInputs | None = None,
) -> Path:
    """Save a converted network: its weights as safetensors, how it was made as ``recipe.yaml``.

    What was in the folder before stays until all is written.

    Args:
        model: A network that `convert` returned (it may have been trained since).
        directory: The folder; made if it is not there.
        source: What builds the original, where it was not built by name; None leaves that to the
            caller of `load`.
        program: Whether to add a program of `torch.export`: the inference form, for any number of
            images where the network takes that. With it `load` needs nothing that builds the
            original.
        example_inputs: What the network's forward takes, for the program; if not given, what the
            costs were counted for, or worked out.

    Raises:
        SavedFolderError: The folder can't be written, or belongs to something else.
        ModelError: The network can't be exported as a program.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"{shown(model)} is no torch.nn.Module: give a converted network.")
    saving.check_named(directory)
    if not isinstance(source, str | Source | None):
        raise SettingsError(
            f"source={shown(source)} names no network: give a name, or file.py:function."
        )
    known = history_of(model)
    given = Source(source) if isinstance(source, str) else source
    history = replace(known, source=given or known.source)
    if not program:
        return saving.write_network(model, Path(directory), history)
    from ghostify.deploy import export_program

    saving.check_target(Path(directory))
    given_inputs = saving.counted_inputs_of(model) if example_inputs is None else example_inputs
    with tempfile.TemporaryDirectory() as place:
        written = export_program(model, Path(place) / "network.pt2", given_inputs)
        return saving.write_network(model, Path(directory), history, written)


def _finish(
    converted: ModuleT, original: nn.Module, decided: Decision, progress: Progress | None
) -> ModuleT:
    """The converted network with its history and, where there are images, a warm start."""
    known = history_of(original)
    calibration = decided.plan.calibration
    # The images stay with the caller: the network's history lives as long as the network.
    kept = None if calibration is None else calibration.without_images()
    plans = (*known.plans, replace(decided.plan, calibration=kept))
    history = History(known.source, plans, decided.report)
    remember(converted, history)
    if calibration is not None:
        from ghostify.warmstart import warm_start_

        size = image_size(decided.report.inputs)
        fitted = warm_start_(
            converted, original, calibration, input_size=size, progress=progress or silent
        ).summary()
        remember(converted, replace(history, report=fitted.annotate(decided.report), start=fitted))
    return converted
