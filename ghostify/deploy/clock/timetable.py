"""What each layer of a network takes in each of its forms: from a table, or measured and kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from ghostify.deploy.clock.forms import (
    TimedLayer,
    find_timed_layers,
    form_of,
    network_signature,
    without_order,
)
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.table import LEFT, LatencyTable, find_table, keep_table
from ghostify.passes.survey import Survey
from ghostify.plans import Conditions, Replacement
from ghostify.progress import Progress
from ghostify.saving.history import name_of
from ghostify.settings import CGhost, Clock

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
    table, is_here = _open_table(clock, stopwatch)
    layers = find_timed_layers(stopwatch.network, survey, stopwatch.args, items)
    forms = {
        name: {
            s: form_of(item, settings, layer.layer, stopwatch.is_fitted and layer.needs_index)
            for s, item in items[name].items()
        }
        for name, layer in layers.items()
    }
    missing = {
        layer.signature: layer
        for name, layer in layers.items()
        if not {LEFT, *forms[name].values()} <= set(table.times.get(layer.signature, ()))
    }
    whole = network_signature(name_of(network), survey.count)
    if is_here:
        runtime = stopwatch.contest.runtime
        wanted = [
            (layer, {LEFT: partial(layer.program, None, settings, runtime)}
             | {forms[layer.name][s]: partial(
                    layer.program, item, settings, runtime, stopwatch.is_fitted)
                for s, item in items[layer.name].items()
                if forms[layer.name][s] not in table.times.get(layer.signature, ())})
            for layer in missing.values()
        ]  # fmt: skip
        measured = stopwatch.layers(wanted, table.conditions.form, progress)
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


def _open_table(clock: Clock, stopwatch: Stopwatch) -> tuple[LatencyTable, bool]:
    """The table, and whether it is of this machine."""
    if clock.table is not None:
        table = find_table(stopwatch.conditions(), clock.table)
        if table.times or table.networks:
            here = stopwatch.conditions(table.conditions.form)
            return table, table.conditions == here
    forms = stopwatch.contest.runtime.forms
    form = forms[0] if len(forms) == 1 else stopwatch.original()[1]
    asked = stopwatch.conditions(form)
    return find_table(asked, clock.table), True


def _times(table: LatencyTable, layer: TimedLayer, forms: Mapping[int, str]) -> dict[int, float]:
    known = table.times[layer.signature]
    # A table that was made for conversions without a warm start knows no orders.
    found = {s: known.get(form, known.get(without_order(form))) for s, form in forms.items()}
    own = {s: milliseconds for s, milliseconds in found.items() if milliseconds is not None}
    return {s: milliseconds * layer.calls for s, milliseconds in {1: known[LEFT], **own}.items()}


def _elsewhere(conditions: Conditions) -> str:
    return f"times are those of another machine ({conditions}): the whole is not measured here"
