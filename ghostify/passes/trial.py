"""Which ghost modules a network can't run with, found by running its meta copy."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping

from torch import nn

from ghostify.cost.figures import Count
from ghostify.cost.run import Run
from ghostify.graph.failure import describe_error
from ghostify.nn.ghost import GhostLayer
from ghostify.nn.start import move_hooks
from ghostify.nn.swap import replace_modules
from ghostify.passes.survey import Survey

Pair = tuple[nn.Module, nn.Module]
"""A layer, and the ghost module for its place."""


def try_ghosts(survey: Survey, pairs: Mapping[str, Pair]) -> tuple[dict[str, str], Count]:
    """Run a survey's meta copy with ghost modules in it; afterwards it is as it was.

    Args:
        survey: The network.
        pairs: Layers of its meta copy and the ghost modules to try, by the layers' names.

    Returns:
        Names of the ghost modules that it can't run with, and the reason of each; and the costs of
        the network with the others.
    """
    trial = _Trial(survey, pairs)
    try:
        trial.put_in(pairs)
        offenders: dict[str, str] = {}
        while True:
            run = trial.run()
            found = trial.find_offenders(run)
            if not found:
                return offenders, run.count()
            trial.take_out(found)
            offenders |= found
    finally:
        trial.take_out(trial.present)


def same_end(before: Run, after: Run) -> bool:
    """Whether both passes ran through to equal shapes, or stopped at the same place."""
    return before.stopped == after.stopped and before.output == after.output


class _Trial:
    """A meta copy with ghost modules in some of its layers' places.

    Attributes:
        present: Names of these layers.
    """

    def __init__(self, survey: Survey, pairs: Mapping[str, Pair]) -> None:
        self.survey, self.pairs = survey, pairs
        self.present: list[str] = []
        for layer, ghost in pairs.values():
            move_hooks(layer, ghost)

    def put_in(self, names: Iterable[str]) -> None:
        chosen = list(names)
        replace_modules(self.survey.meta, dict(self.pairs[name] for name in chosen))
        self.present += chosen

    def take_out(self, names: Iterable[str]) -> None:
        gone = dict.fromkeys(names)
        back = {ghost: layer for layer, ghost in (self.pairs[name] for name in gone)}
        replace_modules(self.survey.meta, back)
        self.present = [name for name in self.present if name not in gone]

    def run(self) -> Run:
        return self.survey.run.again(self.survey.meta)

    def find_offenders(self, run: Run) -> dict[str, str]:
        """Ghost modules to take out, with the reason; none when the network runs as before."""
        if not self.present or same_end(self.survey.run, run):
            return {}
        reason = _reason(run)
        culprit = self._culprit(run.error) if not run.pretend_cpu else None
        return self._search(reason) if culprit is None else {culprit: reason}

    def _culprit(self, error: Exception | None) -> str | None:
        """The ghost module whose weight was asked for, or in whose forward the error arose."""
        names = {self.pairs[name][1]: name for name in self.present}
        asked = getattr(error, "obj", None)
        if isinstance(asked, GhostLayer):
            return names.get(asked)
        frames = traceback.walk_tb(error.__traceback__) if error is not None else ()
        owners = [frame.f_locals.get("self") for frame, _ in frames]
        ghosts = [owner for owner in owners if isinstance(owner, GhostLayer)]
        return names.get(ghosts[-1]) if ghosts else None

    def _search(self, reason: str) -> dict[str, str]:
        """Begin with the original and put the ghost modules in one by one."""
        names = self.present
        self.take_out(names)
        offenders = []
        for name in names:
            self.put_in([name])
            if not same_end(self.survey.run, self.run()):
                self.take_out([name])
                offenders.append(name)
        self.put_in(offenders)  # the caller takes them out
        return dict.fromkeys(offenders, reason)


def _reason(run: Run) -> str:
    if run.error is None:
        return "with a ghost module here the network's output has another shape"
    return f"the network does not run with a ghost module here ({describe_error(run.error)})"
