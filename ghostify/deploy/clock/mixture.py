"""Layers and stages side by side, by the clock: what each becomes within a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from ghostify.deploy.clock.choosing import MARGIN, Trial, measured_times
from ghostify.deploy.clock.search import Choice, search
from ghostify.deploy.clock.stages import time_stages
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.timetable import Timetable, make_timetable
from ghostify.errors import SettingsError
from ghostify.passes.survey import Survey
from ghostify.plans import LayerTime, Plan, Replacement
from ghostify.progress import Progress
from ghostify.settings import Auto, Budgets, Calibration, CGhost, Clock, Settings
from ghostify.warmstart.allocation.parts import Parts, find_parts, find_parts_as_given
from ghostify.warmstart.allocation.several import (
    Form,
    check_reachable,
    choose_forms,
    most_saved,
)
from ghostify.warmstart.allocation.target import needs_of, read_images, worth_judging

TIME = "time"
"""Name of the time among what forms save."""


def plan_within_time(
    network: nn.Module,
    settings: Settings,
    calibration: Calibration | None,
    clock: Clock,
    budgets: Budgets,
    survey: Survey,
    stopwatch: Stopwatch,
    progress: Progress,
) -> Plan:
    """The plan of least loss that keeps to a time in a runtime, and to other budgets beside it.

    A stage competes with what its layers would be as ghost modules.

    Args:
        network: The trained network; it is not changed.
        settings: What may be converted, and how; s and ratio are what is chosen.
        calibration: Images that say what the output feels; without them the weights say it.
        clock: The runtime, and the time.
        budgets: Parts of the MACs and parameters to leave at most.
        survey: Of the network.
        stopwatch: For the network.
        progress: Told what is done now.

    Raises:
        SettingsError: Something can't be kept to, or the settings have an s or ratio.
    """
    is_free = calibration is None or calibration.is_data_free
    if calibration is not None and is_free and settings.stages is not None:
        raise SettingsError(
            "G-Ghost stages can't be fitted without data: give images, calibration=FOLDER."
        )
    parts = find_parts(survey, settings)
    totals = parts.totals([*budgets.asked])
    check_reachable(parts.forms(), totals, budgets.asked)
    needs = needs_of(totals, budgets.asked)
    times = _time_parts(network, parts, survey, clock, stopwatch, progress)
    whole = _PartTrial(parts, times, network, stopwatch, times.timetable, progress)
    total = times.timetable.total
    goal = clock.milliseconds_of(total) / total
    asked = PartSearch(times.forms(parts.forms()), needs, total, goal)
    # What can't be reached is said before images are looked at: that may take minutes.
    if asked.choose((1 - goal) * total) is None:
        search(asked, whole.measure, clock.target, clock.runtime)
    judged = worth_judging(asked.forms, {**needs, TIME: (1 - goal) * total / MARGIN})
    images, kept = None, calibration
    if calibration is not None and not is_free:
        images, kept = read_images(network, calibration, survey, progress)
    seed = 0 if calibration is None else calibration.seed
    faster = [form for form in judged if form.saves[TIME] > 0 or needs]
    losses = parts.losses(network, faster, images, seed, progress)
    asked = replace(asked, forms=times.forms(parts.forms(losses)))
    choice, found = search(asked, whole.measure, clock.target, clock.runtime)
    plan = parts.plan(asked.chosen(choice), times.reasons(clock.runtime))
    rows = times.rows(choice)
    measured = measured_times(times.timetable, rows, asked.predicted(choice), found, clock)
    return replace(plan, calibration=kept, times=measured, **budgets.options)


def plan_fastest(
    network: nn.Module,
    settings: Auto,
    clock: Clock,
    survey: Survey,
    stopwatch: Stopwatch,
    progress: Progress,
) -> Plan:
    """The plan in which each part is what takes least time, by the parts' own times.

    Args:
        network: The network; it is not changed.
        settings: What may be converted, and how.
        clock: The runtime.
        survey: Of the network.
        stopwatch: For the network.
        progress: Told what is done now.
    """
    parts = find_parts_as_given(survey, settings)
    times = _time_parts(network, parts, survey, clock, stopwatch, progress)
    chosen = most_saved(times.forms(parts.forms()), TIME, {})
    return parts.plan(chosen, times.reasons(clock.runtime))


@dataclass(frozen=True)
class _PartTimes:
    """What layers and stages take in each of their forms.

    Attributes:
        timetable: Of the layers, and the whole.
        parts: For each layer and stage milliseconds by s or ratio; `left` is the part itself.
        names: All layers and stages that might become something.
    """

    timetable: Timetable
    parts: Mapping[str, Mapping[float, float]]
    names: Sequence[str]

    def forms(self, forms: Sequence[Form]) -> tuple[Form, ...]:
        """Forms with the time that they save; those that were not timed are left out."""
        return tuple(
            replace(form, saves={**form.saves, TIME: own[LEFT] - own[form.value]})
            for form in forms
            if form.value in (own := self.parts.get(form.part, {}))
        )

    def reasons(self, runtime: str) -> dict[str, str]:
        """Why parts are left where time forbids it."""
        found = {}
        for name in self.names:
            own = self.parts.get(name, {})
            best = min((time for value, time in own.items() if value != LEFT), default=None)
            if best is None:
                found[name] = f"not timed in {runtime}"
            elif best >= own[LEFT]:
                found[name] = f"no ghosts are faster in {runtime}"
        return found

    def rows(self, choice: Choice) -> tuple[LayerTime, ...]:
        """The times as a plan holds them."""
        return tuple(
            LayerTime(name, own[LEFT], own[choice[name]] if name in choice
                      else min(time for value, time in own.items() if value != LEFT))
            for name, own in self.parts.items() if len(own) > 1
        )  # fmt: skip


LEFT = 0.0
"""In place of an s or ratio: the part itself."""


def _time_parts(
    network: nn.Module,
    parts: Parts,
    survey: Survey,
    clock: Clock,
    stopwatch: Stopwatch,
    progress: Progress,
) -> _PartTimes:
    items: dict[str, dict[int, Replacement]] = {}
    for plan, _ in parts.layers.values():
        for item in plan.replaced:
            items.setdefault(item.name, {})[item.s] = item
    settings = parts.settings.layers or CGhost()
    timetable = make_timetable(network, survey, settings, items, clock, stopwatch, progress)
    stages = time_stages(
        [plan for plan, _ in parts.stages.values()], stopwatch, clock, timetable.conditions,
        timetable.is_here, progress,
    )  # fmt: skip
    layers = {
        name: {LEFT if s == 1 else float(s): time for s, time in own.items()}
        for name, own in timetable.layers.items()
    }
    names = dict.fromkeys(form.part for form in parts.forms())
    return _PartTimes(timetable, {**layers, **stages}, [*names])


@dataclass(frozen=True)
class PartSearch:
    """What there is to choose from, and what is wanted; as `Search`, with stages and more budgets.

    Attributes:
        forms: Of layers and stages; what they save in ``"time"`` is in milliseconds.
        needs: What must be saved of other costs.
        total: Milliseconds of the whole original.
        goal: Part of them to take at most.
    """

    forms: tuple[Form, ...]
    needs: Mapping[str, float]
    total: float
    goal: float

    def chosen(self, choice: Choice) -> list[Form]:
        """The forms that a choice names."""
        return [form for form in self.forms if choice.get(form.part) == form.value]

    def saved(self, choice: Choice) -> float:
        """Milliseconds that a choice saves, part by part."""
        return sum(form.saves[TIME] for form in self.chosen(choice))

    def predicted(self, choice: Choice) -> float:
        """The part of the original's time that a choice leaves, by its parts."""
        return max(1 - self.saved(choice) / self.total, 1e-3)

    def loss(self, choice: Choice) -> float:
        """What a choice loses."""
        return sum(form.loss for form in self.chosen(choice))

    def fastest(self) -> Choice:
        """The choice that takes least time."""
        return _named(most_saved(self.forms, TIME, self.needs))

    def choose(self, saving: float) -> Choice | None:
        """The choice of least loss that saves so many milliseconds by its parts; None if none."""
        some = [form for form in self.forms if form.saves[TIME] > 0 or self.needs]
        found = choose_forms(some, {**self.needs, TIME: saving})
        return None if found is None else _named(found)


def _named(forms: Sequence[Form]) -> dict[str, float]:
    return {form.part: form.value for form in sorted(forms, key=lambda form: form.part)}


class _PartTrial(Trial):
    """Conversions in which layers and stages have a form each.

    Args:
        parts: Of the network.
        times: What they take.
        *args: As for `Trial`.
    """

    def __init__(self, parts: Parts, times: _PartTimes, *args: Any) -> None:
        super().__init__(*args)
        self.parts = parts
        self.all = PartSearch(times.forms(parts.forms()), {}, self.timetable.total, 1)

    def plan(self, choice: Choice) -> Plan:
        """Parts that a choice does not name stay as they are."""
        return self.parts.plan(self.all.chosen(choice), {})

    def predicted(self, choice: Choice) -> float:
        """By the parts' times."""
        return self.all.predicted(choice)
