"""What will be done to a network, and what that saves: from a caller's options to a plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ghostify.errors import ModelError, SettingsError
from ghostify.graph.inputs import ExampleInputs
from ghostify.passes.planning import PLANNERS, count_after, make_plan
from ghostify.passes.survey import Survey, survey
from ghostify.plans import Plan
from ghostify.progress import Progress, silent
from ghostify.reports.compare import compare
from ghostify.reports.conversion import Report
from ghostify.saving.history import name_of
from ghostify.settings import (
    SHORT_FORMS_OF_BUDGETS,
    Budgets,
    Calibration,
    CGhost,
    Clock,
    Settings,
    make_settings,
)
from ghostify.settings.calibration import SHORT_FORMS
from ghostify.settings.clock import SHORT_FORMS_OF_CLOCK


@dataclass(frozen=True)
class Decision:
    """A plan, and what it saves.

    Attributes:
        plan: The plan.
        report: What the network costs before and after.
    """

    plan: Plan
    report: Report


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
        return chosen_settings(settings, mode, options)
    if options:
        raise SettingsError(f"{', '.join(options)} given beside a plan: the plan says it all.")
    return settings


def chosen_settings(settings: Settings | None, mode: str, options: Mapping[str, Any]) -> Settings:
    """Settings as a caller gives them: as data, or as the name of a mode and its options.

    Raises:
        SettingsError: Both are given, or something makes no sense.
    """
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
