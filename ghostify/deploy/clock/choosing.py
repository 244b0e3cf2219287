"""An s for each layer by the clock: what the output feels least, within a time in a runtime."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ghostify.data.calibration import images_for
from ghostify.deploy.clock.search import (
    Choice,
    Search,
    WholeTime,
    left_by_choice,
    search,
)
from ghostify.deploy.clock.stopwatch import Stopwatch
from ghostify.deploy.clock.timetable import Items, Timetable, make_timetable
from ghostify.errors import SettingsError
from ghostify.graph.inputs import image_size
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import to_single
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.surgery import rewrite
from ghostify.passes.survey import Survey
from ghostify.plans import LayerTime, MeasuredTimes, Plan
from ghostify.progress import Progress
from ghostify.settings import DEFAULT_S, Calibration, CGhost, Clock
from ghostify.warmstart.allocation.layers import (
    CHOICES,
    Planned,
    losses_of_ghosts,
    losses_without_data,
)

MARGIN = 0.8
"""Part of what layers save alone that the whole network may be expected to save at the least."""

Losses = Mapping[str, Mapping[int, float]]


def choose_within_time(
    network: nn.Module,
    settings: CGhost,
    calibration: Calibration | None,
    clock: Clock,
    survey: Survey,
    stopwatch: Stopwatch,
    progress: Progress,
) -> tuple[CGhost, Calibration | None, Mapping[str, str], MeasuredTimes]:
    """Settings with an s for each layer that keep to a time in a runtime.

    Args:
        network: The trained network; it is not changed.
        settings: Which layers, and how; its s is what is chosen.
        calibration: Images that say what the output feels; without them the loss is what ghosts
            leave unexplained for white inputs, from the weights.
        clock: The runtime, and the time.
        survey: Of the network.
        stopwatch: For the network.
        progress: Told what is done now.

    Returns:
        The settings, the calibration with its images read, why layers are left, and the times.

    Raises:
        SettingsError: The time can't be kept to, or the settings have an s.
    """
    if settings.s != DEFAULT_S:
        raise SettingsError(
            f"s={settings.s!r} given beside target_latency, which chooses it: leave s."
        )
    plans: Planned = {s: plan_c_ghost(survey, replace(settings, s=s)) for s in CHOICES}
    items = {
        item.name: {
            s: own for s, (plan, _) in plans.items() for own in plan.replaced
            if own.name == item.name
        }
        for plan, _ in plans.values() for item in plan.replaced
    }  # fmt: skip
    timetable = _timetable(network, survey, settings, items, clock, stopwatch, progress)
    trial = _LayerTrial(settings, survey, network, stopwatch, timetable, progress)
    asked = trial.asked(clock, {name: dict.fromkeys(CHOICES, 0.0) for name in timetable.layers})
    # What can't be reached is said before images are looked at: that may take minutes.
    if asked.choose((1 - asked.goal) * asked.total) is None:
        search(asked, trial.measure, clock.target, clock.runtime)
    most = 2 * (asked.enough((1 - asked.goal) * asked.total / MARGIN) or CHOICES[-1])
    judged = {s: plan for s, plan in plans.items() if s <= most}
    names = [*timetable.layers]
    losses, calibration = _losses(network, judged, names, calibration, survey, progress)
    asked = trial.asked(clock, losses)
    choice, whole = search(asked, trial.measure, clock.target, clock.runtime)
    reasons = left_by_choice(timetable.layers, choice, [*items], clock.runtime)
    s = {name: choice.get(name, 1) for name in items}
    times = _times(timetable, asked, choice, whole, clock)
    return replace(settings, s={**s, "*": DEFAULT_S}), calibration, reasons, times


def _timetable(
    network: nn.Module,
    survey: Survey,
    settings: CGhost,
    items: Items,
    clock: Clock,
    stopwatch: Stopwatch,
    progress: Progress,
) -> Timetable:
    """The times of layers, as far as there is something to choose: many ghosts take long to write.

    A file that was named is to be carried along: it gets all of them.
    """
    for count in range(2, len(CHOICES) + 1):
        sizes = CHOICES if clock.table is not None else CHOICES[:count]
        some = {name: {s: own[s] for s in own if s in sizes} for name, own in items.items()}
        found = make_timetable(network, survey, settings, some, clock, stopwatch, progress)
        saving = (found.total - clock.milliseconds_of(found.total)) / MARGIN
        enough = Search(found.layers, {}, found.total, 0).enough(saving)
        if sizes == CHOICES or (enough is not None and 2 * enough <= max(sizes)):
            break
    return found


class Trial(ABC):
    """Conversions that are made to be measured, each once.

    Args:
        network: The original; it is not changed.
        stopwatch: For it.
        timetable: What its layers take.
        progress: Told what is done now.
    """

    def __init__(
        self,
        network: nn.Module,
        stopwatch: Stopwatch,
        timetable: Timetable,
        progress: Progress,
    ) -> None:
        self.network, self.stopwatch, self.timetable = network, stopwatch, timetable
        self.progress = progress
        self.known: dict[tuple[tuple[str, float], ...], WholeTime] = {}

    @abstractmethod
    def plan(self, choice: Choice) -> Plan:
        """What a choice makes of the network."""

    @abstractmethod
    def predicted(self, choice: Choice) -> float:
        """The part of the original's time that a choice leaves, by its parts."""

    def measure(self, choice: Choice) -> WholeTime:
        """The time of the whole network; elsewhere than on this machine, what its parts say."""
        key = tuple(choice.items())
        if key not in self.known:
            self.known[key] = self._measure(choice)
        return self.known[key]

    def _measure(self, choice: Choice) -> WholeTime:
        if not self.timetable.is_here:
            total, ratio = self.timetable.total, self.predicted(choice)
            return WholeTime(total, total * ratio, ratio, ratio, ratio)
        self.progress("timing the whole network")
        return time_whole(self.network, self.plan(choice), self.stopwatch)


class _LayerTrial(Trial):
    """Conversions in which layers have an s each.

    Args:
        settings: What is converted, and how.
        survey: Of the network.
        *args: As for `Trial`.
    """

    def __init__(self, settings: CGhost, survey: Survey, *args: Any) -> None:
        super().__init__(*args)
        self.settings, self.survey = settings, survey

    def asked(self, clock: Clock, losses: Losses) -> Search:
        """What there is to choose from."""
        times = {n: forms for n, forms in self.timetable.layers.items() if n in losses}
        total = self.timetable.total
        return Search(times, losses, total, clock.milliseconds_of(total) / total)

    def plan(self, choice: Choice) -> Plan:
        """Layers that a choice does not name stay as they are."""
        left = dict.fromkeys(self.timetable.layers, 1) | dict(choice)
        return plan_c_ghost(self.survey, replace(self.settings, s={**left, "*": DEFAULT_S}))[0]

    def predicted(self, choice: Choice) -> float:
        """By the layers' times."""
        return Search(self.timetable.layers, {}, self.timetable.total, 1).predicted(choice)


def time_whole(network: nn.Module, plan: Plan, stopwatch: Stopwatch) -> WholeTime:
    """Convert by a plan, and measure the whole network beside the original.

    Args:
        network: The original; it is not changed.
        plan: The plan.
        stopwatch: For the original.
    """
    before, after = stopwatch.beside_original(rewrite(network, plan))
    return WholeTime(before.typical * 1e3, after.typical * 1e3, after.ratio, after.low, after.high)


def _losses(
    network: nn.Module,
    plans: Planned,
    names: list[str],
    calibration: Calibration | None,
    survey: Survey,
    progress: Progress,
) -> tuple[Losses, Calibration | None]:
    """What ghosts of each layer lose, and the calibration with its images read."""
    if calibration is None or calibration.is_data_free:
        return losses_without_data(network, plans, names, progress), calibration
    teacher = to_single(copy_network(network).eval())
    images, _ = images_for(teacher, calibration, image_size(survey.count.inputs), progress)
    found = losses_of_ghosts(network, plans, names, images, calibration.seed, progress)
    # A loader may be at its end now; a folder is read again, and what is said of it is noted.
    return found, calibration if calibration.is_folder else replace(calibration, images=images)


def _times(
    timetable: Timetable, asked: Search, choice: Choice, whole: WholeTime, clock: Clock
) -> MeasuredTimes:
    layers = tuple(
        LayerTime(name, forms[1], forms[choice.get(name, 1)] if choice.get(name, 1) > 1
                  else min((t for s, t in forms.items() if s > 1), default=forms[1]))
        for name, forms in timetable.layers.items()
    )  # fmt: skip
    return measured_times(timetable, layers, asked.predicted(choice), whole, clock)


def measured_times(
    timetable: Timetable,
    layers: tuple[LayerTime, ...],
    predicted: float,
    whole: WholeTime | None,
    clock: Clock,
) -> MeasuredTimes:
    """The times as a plan holds them; of the whole only where it was measured on this machine."""
    target = clock.target
    if whole is None or not timetable.is_here:
        return MeasuredTimes(timetable.conditions, layers, predicted=predicted, target=target)
    return MeasuredTimes(
        timetable.conditions, layers, whole.before, whole.after, whole.ratio, whole.low,
        whole.high, predicted, target,
    )  # fmt: skip
