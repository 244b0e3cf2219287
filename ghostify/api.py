"""The few verbs that users call."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, overload

from torch import nn

from ghostify import saving
from ghostify.cost.counting import count as count_costs
from ghostify.errors import ModelError, SettingsError, shown
from ghostify.graph.inputs import ExampleInputs, image_size
from ghostify.graph.meta_copy import copy_network
from ghostify.numerics.surroundings import own_surroundings
from ghostify.passes.planning import PLANNERS, count_after, make_plan
from ghostify.passes.surgery import rewrite, rewrite_
from ghostify.passes.survey import Survey, survey
from ghostify.plans import Plan
from ghostify.progress import Progress, silent
from ghostify.reports.compare import compare, describe
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
    SHORT_FORMS_OF_BUDGETS,
    Budgets,
    Calibration,
    CGGhost,
    CGhost,
    Clock,
    GGhost,
    Settings,
    make_settings,
)
from ghostify.settings.calibration import SHORT_FORMS
from ghostify.settings.clock import SHORT_FORMS_OF_CLOCK

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


@dataclass(frozen=True)
class Decision:
    """A plan, and what it saves.

    Attributes:
        plan: The plan.
        report: What the network costs before and after.
    """

    plan: Plan
    report: Report


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
    chosen = _settings(settings, GGhost.mode if settings is None else CGhost.mode, options)
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


def decide(
    network: nn.Module,
    settings: Settings | Plan | None = None,
    *,
    mode: str = CGhost.mode,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    calibration: Any = None,
    progress: Progress | None = None,
    **options: Any,
) -> Decision:
    """Make a plan, or take the one that is given, and work out what it saves.

    Args:
        network: The network; it is not changed.
        settings: Settings as data, or a plan; in place of ``mode`` and ``options``.
        mode: Name of the mode.
        example_inputs: What the network's forward takes, for the costs; worked out if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        calibration: What the network takes, without labels (a folder of images, tensors ``(N,
            ...)`` alone or in a tuple or mapping, a data set, a loader), ``"data-free"``, or a
            `Calibration`, which also says how much of it is taken, and for how long the network is
            reconstructed.
        progress: Told what is done now.
        **options: Settings of the mode; and short forms of the calibration's fields
            (``calibration_samples``, ``calibration_seed``, ``reconstruct_minutes``, ``inputs``,
            ``mean``, ``std``), of the budgets' (``target_macs``, ``target_params``: with these
            images an s or ratio is chosen for each layer or stage) and of the clock's
            (``runtime``, ``target_latency``, ``threads``, ``batch``, ``device``,
            ``latency_table``; see `Clock`).

    Raises:
        SettingsError: A setting makes no sense, or a selector matches nothing.
        ModelError: The network can't be copied, or can't take the inputs that were given.
    """
    short = _taken(options, SHORT_FORMS)
    clock = Clock.from_options(_taken(options, SHORT_FORMS_OF_CLOCK))
    budgets = Budgets.from_options(_taken(options, SHORT_FORMS_OF_BUDGETS))
    if calibration is None and isinstance(settings, Plan) and settings.calibration is not None:
        calibration = settings.calibration if settings.calibration.images is not None else None
    asked = Calibration.from_options(calibration, short)
    budgets.check(asked, isinstance(settings, Plan), clock)
    if clock is not None and isinstance(settings, Plan):
        raise SettingsError("runtime given beside a plan: the plan says what is converted.")
    chosen, told = _settings_or_plan(settings, mode, options), progress or silent
    found = survey(network, example_inputs, input_size)
    if found.count.stopped is not None and asked is not None and found.run.inputs.assumed:
        found = _survey_for_data(network, asked) or found
    if isinstance(chosen, Plan):
        made, after = chosen, count_after(found, chosen, network)
        made = made if asked is None else replace(made, calibration=asked)
    elif clock is not None:
        from ghostify.deploy.clock import Stopwatch, plan_by_clock

        with Stopwatch(network, clock, example_inputs, input_size, asked is not None) as stopwatch:
            made = plan_by_clock(network, chosen, asked, clock, budgets, found, stopwatch, told)
        after = count_after(found, made, network)
    elif budgets.asked and asked is not None:
        from ghostify.warmstart.allocation import plan_within_budgets

        made = plan_within_budgets(network, chosen, asked, budgets, found, told)
        after = count_after(found, made, network)
    else:
        made, after = make_plan(found, chosen, network)
        made = replace(made, calibration=asked)
    return Decision(made, compare(name_of(network), [made], found.count, after))


def _taken(options: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Some options, taken out of the others."""
    return {name: options.pop(name) for name in names if name in options}


def _survey_for_data(network: nn.Module, calibration: Calibration) -> Survey | None:
    """The survey for what the calibration data says that the network takes, where it does."""
    if calibration.is_data_free:
        return None
    from ghostify.data.calibration import example_of

    example = example_of(network, calibration)
    try:
        return None if example is None else survey(network, example)
    except ModelError:  # it takes the data, and no tensors without data
        return None


def _settings_or_plan(
    settings: Settings | Plan | None, mode: str, options: Mapping[str, Any]
) -> Settings | Plan:
    if not isinstance(settings, Plan):
        return _settings(settings, mode, options)
    if options:
        raise SettingsError(f"{', '.join(options)} given beside a plan: the plan says it all.")
    return settings


def _settings(settings: Settings | None, mode: str, options: Mapping[str, Any]) -> Settings:
    if settings is None:
        return make_settings(mode, **options)
    if options:
        raise SettingsError(
            f"{', '.join(options)} given beside settings: put everything into the settings."
        )
    if type(settings) not in PLANNERS:
        kinds = ", ".join(kind.__name__ for kind in PLANNERS)
        raise SettingsError(
            f"settings={settings!r} are no settings: give one of {kinds}, or mode= and options."
        )
    if mode not in (CGhost.mode, settings.mode):
        raise SettingsError(f"mode={mode!r} given beside settings of {settings.mode}: leave it.")
    return settings


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
