"""What each layer of a network takes in each of its forms: from a table, or measured and kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from torch import nn

from ghostify.deploy.apart import GhostApart
from ghostify.deploy.clock.forms import (
    Leaves,
    TimedLayer,
    find_timed_layers,
    form_of,
    network_signature,
    plain_form,
)
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.table import LEFT, LatencyTable, find_table, keep_table
from ghostify.deploy.program import Program
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.surgery import rewrite
from ghostify.passes.survey import Survey
from ghostify.plans import Conditions, Replacement
from ghostify.progress import Progress
from ghostify.saving.history import name_of
from ghostify.settings import DEFAULT_S, CGhost, Clock

Items = Mapping[str, Mapping[int, Replacement]]
"""For each layer, and each s, what it becomes."""


@dataclass(frozen=True)
class Timetable:
    """What each layer of a network takes in each of its forms.

    Attributes:
        conditions: What the times hold for.
        is_here: Whether they hold for this machine, so that the whole network can be measured too.
        total: Milliseconds of the whole original.
        layers: For each layer milliseconds of a run by s, all its calls; 1 is the layer itself.
            What could not be timed is not there.
        notes: What a reader must know.
    """

    conditions: Conditions
    is_here: bool
    total: float
    layers: Mapping[str, Mapping[int, float]]
    notes: tuple[str, ...] = ()


def make_timetable(
    network: nn.Module,
    survey: Survey,
    settings: CGhost,
    items: Items,
    clock: Clock,
    stopwatch: Stopwatch,
    progress: Progress,
) -> Timetable:
    """Look up, or measure, what layers take in each of their forms.

    Args:
        network: The original.
        survey: Of it.
        settings: Of the conversion.
        items: The layers, and what they may become.
        clock: The runtime, and the file of times.
        stopwatch: For the original.
        progress: Told what is done now.

    Raises:
        SettingsError: The file of times can't be used.
    """
    whole = network_signature(name_of(network), survey.count)
    table, is_here = _open_table(clock, stopwatch, whole)
    layers = find_timed_layers(stopwatch.network, survey, stopwatch.args, items)
    leaves = _leaves(layers, survey, settings, stopwatch)
    forms = {
        name: {
            s: form_of(item, settings, layer.layer, leaves[name]) for s, item in items[name].items()
        }
        for name, layer in layers.items()
    }
    if is_here:
        wanted: dict[str, tuple[TimedLayer, dict[str, Callable[[], Program]]]] = {}
        for name, layer in layers.items():
            make = partial(layer.program, settings=settings, runtime=stopwatch.contest.runtime)
            known = table.times.get(layer.signature, {})
            unknown = {
                forms[name][s]: partial(make, item, leaves=leaves[name])
                for s, item in items[name].items()
                if forms[name][s] not in known
            }
            if unknown or LEFT not in known:  # layers of one signature may leave in several ways
                left: dict[str, Callable[[], Program]] = {LEFT: partial(make, None)}
                wanted.setdefault(layer.signature, (layer, left))[1].update(unknown)
        measured = stopwatch.layers([*wanted.values()], table.conditions.form, progress)
        is_new = measured or whole not in table.networks
        # The time then, not now: beside the layers' times of then it tells what they are a part of.
        total = table.networks.get(whole) or stopwatch.original()[0]
        table = table.with_times(measured).with_network(whole, total)
        if is_new:
            keep_table(table, clock.table)
    else:
        total = table.networks.get(whole, 0.0)
    found = {
        name: _times(table, layer, forms[name])
        for name, layer in layers.items()
        if LEFT in table.times.get(layer.signature, ())
    }
    notes = [] if is_here else [_elsewhere(table.conditions)]
    if not total:
        total = sum(times[1] for times in found.values())
        notes.append("the latency table has no time of the whole network: it is taken as the sum "
                     "of its convertible layers")  # fmt: skip
    return Timetable(table.conditions, is_here, total, found, tuple(notes))


def _leaves(
    layers: Mapping[str, TimedLayer], survey: Survey, settings: CGhost, stopwatch: Stopwatch
) -> dict[str, Leaves]:
    """How the maps of ghost modules would leave them, if all layers became some."""
    if not layers:
        return {}
    plan, _ = plan_c_ghost(survey, replace(settings, s=DEFAULT_S))
    made = stopwatch.inference_form(stopwatch.as_it_will_be(rewrite(stopwatch.network, plan)))
    apart = {name for name, module in made.named_modules() if isinstance(module, GhostApart)}
    found: dict[str, Leaves] = {}
    for name, layer in layers.items():
        needs_index = stopwatch.is_fitted and layer.needs_index
        found[name] = "apart" if name in apart else "order" if needs_index else ""
    return found


def _open_table(clock: Clock, stopwatch: Stopwatch, whole: str) -> tuple[LatencyTable, bool]:
    """The table, and whether it is of this machine."""
    if clock.table is not None:
        table = find_table(stopwatch.conditions(), clock.table)
        if table.times or table.networks:
            here = stopwatch.conditions(table.conditions.form)
            return table, table.conditions == here
    forms = stopwatch.contest.runtime.forms
    for form in forms:  # of two memory formats that are nearly as fast now this wins, now that
        table = find_table(stopwatch.conditions(form), clock.table)
        if len(forms) == 1 or whole in table.networks:
            return table, True
    return find_table(stopwatch.conditions(stopwatch.original()[1]), clock.table), True


def _times(table: LatencyTable, layer: TimedLayer, forms: Mapping[int, str]) -> dict[int, float]:
    known = table.times[layer.signature]
    # Tables of other conversions know their maps to leave otherwise.
    found = {s: known.get(form, known.get(plain_form(form))) for s, form in forms.items()}
    own = {s: milliseconds for s, milliseconds in found.items() if milliseconds is not None}
    return {s: milliseconds * layer.calls for s, milliseconds in {1: known[LEFT], **own}.items()}


def _elsewhere(conditions: Conditions) -> str:
    return f"times are those of another machine ({conditions}): the whole is not measured here"
