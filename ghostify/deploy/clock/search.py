"""From the times of layers to a choice that keeps to a time as measured, try by try."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, Protocol

from ghostify.errors import SettingsError
from ghostify.warmstart.allocation.budget import Option, allocate_above

TRIES = 6
"""Choices that are measured whole."""

SLACK = 0.02
"""Part of the original's time that may be left unused."""

LEAST_STEP = 0.005
"""Part of the original's time by which savings that are asked for differ at least."""

NANOSECONDS = 1e6
"""In a millisecond: options' costs are whole numbers."""

Choice = Mapping[str, Any]
"""An s for each layer (1 leaves it), or a ratio for a stage; what is not named is left."""


@dataclass(frozen=True)
class WholeTime:
    """The measured time of a whole network beside the original's.

    Attributes:
        before: Milliseconds of the original.
        after: Of the converted one.
        ratio: after / before, median of rounds in alternation.
        low: Lower end of its 95 % confidence interval.
        high: Upper end.
    """

    before: float
    after: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Search:
    """What there is to choose from, and what is wanted.

    Attributes:
        times: For each layer milliseconds by s; 1 is the layer itself.
        losses: For each layer what each s loses.
        total: Milliseconds of the whole original.
        goal: Part of them to take at most.
    """

    times: Mapping[str, Mapping[int, float]]
    losses: Mapping[str, Mapping[int, float]]
    total: float
    goal: float

    def saved(self, choice: Choice) -> float:
        """Milliseconds that a choice saves, layer by layer."""
        return sum(self.times[name][1] - self.times[name][s] for name, s in choice.items())

    def predicted(self, choice: Choice) -> float:
        """The part of the original's time that a choice leaves, by its layers."""
        return 1 - self.saved(choice) / self.total

    def loss(self, choice: Choice) -> float:
        """What a choice loses; without end where that was not judged."""
        return sum(self.losses[name].get(s, inf) for name, s in choice.items() if s > 1)

    def fastest(self) -> Choice:
        """The choice that takes least time."""
        return {name: min(forms, key=forms.__getitem__) for name, forms in self.times.items()}

    def choose(self, saving: float) -> Choice | None:
        """The choice of least loss that saves so many milliseconds by its layers; None if none.

        No layer gets more than twice the s that would do for all: what a layer loses is judged
        alone, and a very large s loses more than that says (see `choose_s`).
        """
        enough = self.enough(saving)
        if enough is None:
            return None
        options = {
            name: [
                Option(s, round(forms[s] * NANOSECONDS), self.losses[name].get(s, 0.0))
                for s in forms
                if s == 1 or (s <= 2 * enough and forms[s] < forms[1] and s in self.losses[name])
            ]
            for name, forms in self.times.items()
        }
        spent = sum(max(o.cost for o in some) - min(o.cost for o in some)
                    for some in options.values())  # fmt: skip
        return allocate_above(options, int(spent - saving * NANOSECONDS))

    def enough(self, saving: float) -> int | None:
        """The least s that saves so many milliseconds, where all may have it; None if none does."""
        sizes = sorted({s for forms in self.times.values() for s in forms})
        return next((s for s in sizes if self._most(s) >= saving), None)

    def _most(self, largest: int) -> float:
        """Milliseconds that can be saved with an s of at most so much."""
        return sum(
            forms[1] - min(t for s, t in forms.items() if s <= largest)
            for forms in self.times.values()
        )


class Searched(Protocol):
    """What `search` asks of what there is to choose from."""

    @property
    def total(self) -> float:
        """Milliseconds of the whole original."""

    @property
    def goal(self) -> float:
        """Part of them to take at most."""

    def saved(self, choice: Choice) -> float:
        """Milliseconds that a choice saves by its parts."""

    def loss(self, choice: Choice) -> float:
        """What a choice loses."""

    def fastest(self) -> Choice:
        """The choice that takes least time."""

    def choose(self, saving: float) -> Choice | None:
        """The choice of least loss that saves so many milliseconds by its parts; None if none."""


def search(
    asked: Searched,
    measure: Callable[[Choice], WholeTime],
    target: float | str | None,
    runtime: str,
) -> tuple[Choice, WholeTime]:
    """The choice of least loss that really keeps to a time.

    Layers' times don't add up to the network's: after each measurement the saving that is asked of
    them is corrected by what the last choice saved in fact, and kept between what was too little
    and what was enough.

    Args:
        asked: What there is to choose from, and what is wanted.
        measure: Converts by a choice, and measures the whole.
        target: As it was asked for, for the error.
        runtime: Likewise.

    Returns:
        The choice, and its time.

    Raises:
        SettingsError: The fastest choice does not keep to it.
    """
    known: dict[tuple[tuple[str, int], ...], WholeTime] = {}
    met: list[tuple[float, Choice]] = []
    saving, fastest = (1 - asked.goal) * asked.total, asked.fastest()

    def look(choice: Choice) -> WholeTime:
        key = tuple(choice.items())
        if key not in known:
            known[key] = measure(choice)
            if known[key].ratio <= asked.goal:
                met.append((asked.loss(choice), choice))
        return known[key]

    between = _Between(0.0, inf)
    for _ in range(4 * TRIES):  # some savings lead to a choice that is known
        choice = asked.choose(saving)
        choice = fastest if choice is None else choice
        found = look(choice)
        is_met = found.ratio <= asked.goal
        is_enough = is_met and (found.ratio >= asked.goal - SLACK or not asked.loss(choice))
        if is_enough or (choice == fastest and not is_met):
            break
        between = between.narrowed(saving, is_met)
        if len(known) == TRIES or between.high - between.low < LEAST_STEP * asked.total:
            break
        saving = between.inside(_corrected(asked, choice, found))
    if not met and look(fastest).ratio > asked.goal:
        raise _out_of_reach(target, runtime, look(fastest))
    _, best = min(met, key=lambda pair: pair[0])
    return best, look(best)


@dataclass(frozen=True)
class _Between:
    """The savings by the parts' times between which the one lies that is just enough.

    Attributes:
        low: The most that was too little.
        high: The least that was enough.
    """

    low: float
    high: float

    def narrowed(self, saving: float, is_enough: bool) -> _Between:
        """After one more saving was tried."""
        if is_enough:
            return _Between(self.low, min(self.high, saving))
        return _Between(max(self.low, saving), self.high)

    def inside(self, saving: float) -> float:
        """The saving itself, or the middle where that is known already."""
        if self.low < saving < self.high or self.high == inf:
            return saving
        return (self.low + self.high) / 2


def _corrected(asked: Searched, choice: Choice, found: WholeTime) -> float:
    """Milliseconds that layers must save so that the whole does, by what a choice saved in fact."""
    saved, in_fact = asked.saved(choice), (1 - found.ratio) * asked.total
    wanted = (1 - asked.goal) * asked.total
    if in_fact <= 0.1 * saved:  # nothing to go by: ask for what lies between this and all
        return (saved + asked.saved(asked.fastest())) / 2
    # Towards the middle of what may be left unused, so that noise does not decide.
    return (wanted + 0.25 * SLACK * asked.total) * saved / in_fact


def _out_of_reach(target: float | str | None, runtime: str, found: WholeTime) -> SettingsError:
    return SettingsError(
        f"target_latency={target} can't be reached in {runtime}: with the fastest ghosts "
        f"everywhere {found.ratio:.3f} of the time is left ({found.after:.3g} ms of "
        f"{found.before:.3g} ms); give more than that."
    )


def left_by_choice(
    times: Mapping[str, Mapping[int, float]], choice: Choice, names: Sequence[str], runtime: str
) -> dict[str, str]:
    """For each layer that a choice leaves: why.

    Args:
        times: For each layer milliseconds by s.
        choice: The choice.
        names: All layers that might have become ghosts.
        runtime: Name of the runtime.
    """
    reasons: dict[str, str] = {}
    for name in names:
        forms = times.get(name, {})
        best = min((t for s, t in forms.items() if s > 1), default=None)
        if best is None:
            reasons[name] = f"not timed in {runtime}"
        elif best >= forms[1]:
            reasons[name] = f"no ghosts are faster in {runtime}"
        elif choice.get(name, 1) == 1:
            reasons[name] = f"the time in {runtime} that was asked for is met without it"
    return reasons
