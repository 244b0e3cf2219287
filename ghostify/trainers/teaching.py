"""What the callbacks share: a student that sees, in each call, what its original does."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.deploy import benchmark
from ghostify.errors import GhostifyError, GhostifyWarning, ModelError
from ghostify.graph.inputs import image_size
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import steady_train_mode
from ghostify.saving.history import history_of
from ghostify.train.checks import check_network
from ghostify.train.features import Observed, check_alike
from ghostify.train.losses import weights_at
from ghostify.train.points import Point, find_points_of_any, of_equal_parts
from ghostify.train.settings import FinetuneSettings
from ghostify.tuning.losses import difference

PREFIX = "ghostify"
"""Before the names of all that is logged."""


class Teaching:
    """A loss on a converted network's features, beside whatever it is trained for.

    Whenever the student runs in training, the original runs on the same input, without gradients,
    and both are compared at the converted parts, as `ghostify.finetune` does.

    Args:
        holder: What is trained: a converted network, or a module that holds one.
        teacher: The trained original; a copy of it is used.
        weight: Of the loss at first; it falls to zero in the course of the training.

    Raises:
        ModelError: There is not one converted network, or the teacher is not its original.
        SettingsError: The weight makes no sense.
    """

    def __init__(self, holder: nn.Module, teacher: nn.Module, weight: float) -> None:
        self._settings = FinetuneSettings(features=weight)
        check_network(teacher, "teacher")
        self.student = find_student(holder)
        self.teacher = steady_train_mode(copy_network(teacher)).requires_grad_(False)
        self._points: tuple[Point, ...] = find_points_of_any(self.student, self.teacher)
        if not self._points:
            raise ModelError(
                "The teacher is not the network that the student was converted from, so that their "
                "features can't be compared: give the original."
            )
        self._losses: list[Tensor] = []
        self._agreed: frozenset[Point] | None = None
        self._hooks = ExitStack()
        self.last: float | None = None

    def attach(self) -> None:
        """Begin to watch the student."""
        made = self._watched(self.student, [(p.student, p.side) for p in self._points])
        told = self._watched(self.teacher, [(p.teacher, p.side) for p in self._points])
        self.teacher.to(next(self.student.parameters()).device)

        def before(student: nn.Module, args: Any) -> None:
            made.collect()  # of calls that were no training

        def after(student: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if student.training and torch.is_grad_enabled():
                with torch.no_grad():
                    self.teacher(*args, **kwargs)
                self._compare(made.collect(), told.collect())

        hooks = (
            self.student.register_forward_pre_hook(before, prepend=True),
            (self.student.register_forward_hook(after, with_kwargs=True)),
        )
        for hook in hooks:
            self._hooks.callback(hook.remove)

    def _watched(self, network: nn.Module, places: list[Any]) -> Observed:
        observed = Observed(network, places)
        self._hooks.callback(observed.release)
        return observed

    def detach(self) -> None:
        """Leave the student as it was."""
        self._hooks.close()
        self._losses.clear()

    def _compare(self, made: list[list[Tensor]], told: list[list[Tensor]]) -> None:
        if self._agreed is None:
            shapes = [[[t.shape for t in calls] for calls in side] for side in (made, told)]
            seen = list(zip(self._points, *shapes, strict=True))
            self._agreed = frozenset(of_equal_parts(seen))
        some = [n for n, point in enumerate(self._points) if point in self._agreed]
        ours, theirs = ([t for n in some for t in side[n]] for side in (made, told))
        check_alike(ours, theirs)
        if ours:
            self._losses.append(difference(ours, theirs))

    def loss(self, step: int, steps: int) -> Tensor | None:
        """The weighted loss of the student's calls since it was asked for last; None without any.

        Args:
            step: Steps that are done.
            steps: Of the whole training.
        """
        if not self._losses:
            return None
        found = torch.stack(self._losses).mean()
        self._losses.clear()
        self.last = float(found.detach())
        return found * weights_at(min(step, steps), max(steps, 1), self._settings)["features"]

    def costs(self) -> dict[str, float]:
        """MACs and parameters of the student, and how many times fewer they are."""
        report = history_of(self.student).report
        if report is None:
            return {}
        found = {"params": report.after.params, "params_fewer": report.ratios.params,
                 "macs": report.after.macs, "macs_fewer": report.ratios.macs}  # fmt: skip
        return {f"{PREFIX}/{n}": float(v) for n, v in found.items() if v is not None}

    def times(self, runtime: str | None, seconds: float) -> Mapping[str, float]:
        """Milliseconds of both networks in a runtime, one image at a time; empty without one."""
        report = history_of(self.student).report
        if runtime is None or report is None:
            return {}
        try:
            size = image_size(report.inputs)
            pair = (copy_network(n).cpu() for n in (self.teacher, self.student))
            before, after = benchmark(
                *pair, runtime=runtime, input_size=size or None, seconds=seconds
            ).rows
        except GhostifyError as error:  # the training is done: it is not to be lost
            warnings.warn(f"The time is not measured: {error}", GhostifyWarning, stacklevel=2)
            return {}
        found = {"ms_original": before.milliseconds, "ms": after.milliseconds, "time": after.ratio}
        return {f"{PREFIX}/{name}": value for name, value in found.items()}


def find_student(holder: nn.Module) -> nn.Module:
    """The converted network in a module: itself, or the only one inside.

    Raises:
        ModelError: There is none, or there are several.
    """
    check_network(holder)
    found = [module for module in holder.modules() if history_of(module).plans]
    if len(found) != 1:
        raise ModelError(
            f"{type(holder).__name__} holds {len(found) or 'no'} converted networks: train one "
            "that ghostify.convert or ghostify.load gave."
        )
    return found[0]
