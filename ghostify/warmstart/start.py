"""The warm start of a converted network, from calibration images or from the weights alone."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from ghostify.data.calibration import batch_size, images_for
from ghostify.data.spool import Span, Spool
from ghostify.distributed import count_of_all
from ghostify.errors import ModelError, SettingsError
from ghostify.graph.calls import call, names_of
from ghostify.graph.meta_copy import copy_network
from ghostify.graph.segments import Segment, split
from ghostify.nn.ghost import PairedGhost
from ghostify.nn.modes import eval_mode, single_precision, to_single
from ghostify.numerics.random_state import keep_random_state
from ghostify.progress import Milestone, Progress, silent
from ghostify.saving.history import INTERRUPTED, history_of
from ghostify.settings import Calibration
from ghostify.warmstart.c_ghost.datafree import fit_without_data
from ghostify.warmstart.c_ghost.layers import find_ghost_pairs
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.held_out import FEW, RidgeChoices, count_held_out, split_spans
from ghostify.warmstart.fitting import NetworkFit, is_ghost
from ghostify.warmstart.folding import fold_orders
from ghostify.warmstart.judging import distances
from ghostify.warmstart.result import LayerFit, WarmStart


def warm_start_(
    converted: nn.Module,
    original: nn.Module,
    calibration: Calibration,
    *,
    input_size: tuple[int, ...] = (),
    progress: Progress = silent,
) -> WarmStart:
    """Fit a converted network's ghost modules to what the original does; in place.

    Each ghost module chooses its intrinsic maps, and the one that each ghost comes from, and is
    fitted by least squares (Eq. 2-3). An interrupt (Ctrl-C) ends it; what is done by then is kept,
    and the result's notes say what that is.

    Args:
        converted: What `convert` returned for ``original``, not fitted yet; only weights change.
        original: The trained network; it is not changed.
        calibration: Images without labels (see `gather`), or ``"data-free"``, and how they are
            used.
        input_size: ``(C, H, W)`` that image files are brought to.
        progress: Told what is done now, for a progress bar.

    Returns:
        How well each layer is explained, and what was done.

    Raises:
        DataError: The images can't be read.
    """
    if isinstance(converted, PairedGhost):  # one layer has no place where it is called
        inside = nn.Sequential(converted), nn.Sequential(original)
        result = warm_start_(*inside, calibration, input_size=input_size, progress=progress)
        return replace(result, layers=tuple(replace(fit, name="") for fit in result.layers))
    began = time.perf_counter()
    _check_weights(original)
    teacher = to_single(copy_network(original).eval())
    modes = eval_mode(converted), single_precision(converted)
    with modes[0], modes[1], keep_random_state(calibration.seed):
        run = _Run(converted, teacher, calibration, progress)
        result = run.without_data() if calibration.is_data_free else run.with_images(input_size)
    return replace(result, seconds=time.perf_counter() - began)


def _check_weights(network: nn.Module) -> None:
    """Raise where there is nothing that a fit could keep.

    Raises:
        ModelError: Layers are lazy and have no shapes yet, or weights are on the meta device.
    """
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor):
            raise ModelError(
                f"The network's {name} has no shape yet, and a warm start needs trained weights: "
                "run the network once on an input before, and load its weights."
            )
        if tensor.is_meta:
            raise ModelError(
                f"The network's {name} is on the meta device, and a warm start needs trained "
                "weights: give a network with values."
            )


ROUNDING = 1e-6
"""Part of the output's energy by which a fit may be worse."""


OVERFITTED = 1.5
"""Held-out images may differ by so many times what the others do: from then on they are few."""


class _Run:
    """One warm start: the two networks, and what came of it so far."""

    def __init__(
        self, converted: nn.Module, teacher: nn.Module, settings: Calibration, progress: Progress
    ) -> None:
        self.converted, self.teacher = converted, teacher
        self.settings, self.progress = settings, progress
        self.total = sum(isinstance(m, PairedGhost) for m in converted.modules())
        plans = history_of(converted).plans
        self.stages = plans[-1].stages if plans else ()
        self.cold, self.ridges = ColdStart(converted), RidgeChoices()
        self.passes: list[NetworkFit] = []
        self.notes: list[str] = []
        self.is_taken_back = False

    def _split(
        self, names: frozenset[str] | None = None, samples: Sequence[Any] = ()
    ) -> list[Segment]:
        return split(self.teacher, lambda name: is_ghost(self.converted, name), names, samples)

    def without_data(self) -> WarmStart:
        """From the weights alone."""
        if self.stages:
            raise SettingsError(
                "G-Ghost stages can't be fitted without data: give images, calibration=FOLDER."
            )
        segments = self._split()
        fits: list[LayerFit] = []
        for segment in segments:
            for subject in find_ghost_pairs(segment, self.teacher, self.converted):
                text = f"fitting {subject.name} from its weights"
                self.progress(Milestone(text, len(fits) / max(self.total, 1)))
                with self.cold.instead(subject.name):
                    fits.append(fit_without_data(subject))
        self.cold.mend()
        fold_orders(segments, self.converted)
        self.notes.append("data-free: the errors are for white inputs, not for real images")
        return self._result(fits, 0)

    def with_images(self, input_size: tuple[int, ...]) -> WarmStart:
        """From images."""
        images, notes = images_for(self.teacher, self.settings, input_size, self.progress)
        self.notes += notes
        names = names_of(self.teacher, images.take([0]))
        segments = self._split(names, images.examples())
        try:
            self._fit_and_judge(segments, images)
        except KeyboardInterrupt:
            done = f"{len(self.passes[-1].fits)} of {self.total} layers are fitted, "
            self.notes.append(
                f"{INTERRUPTED}{done if self.total else ''}what was not reached is as the "
                "conversion left it"
            )
        self.cold.mend()
        if not self.stages:
            fold_orders(segments, self.converted)
        fits = [] if self.is_taken_back else self._with_held_out(self.passes[-1].fits)
        return self._result(fits, count_of_all(len(images)))

    def _fit_and_judge(self, segments: list[Segment], images: Spool) -> None:
        """Fit to all but what is held out; then, where images are few, to all of them.

        What is held out tells whether the cold start was better: it comes back then.
        """
        minutes = math.inf if self.settings.minutes is None else self.settings.minutes
        held_out = count_held_out(len(images))
        if not held_out:
            self.is_taken_back = True
            self.notes.append(
                "one image can't tell whether a fit is any good: the network is as the conversion "
                "left it; give more calibration images"
            )
            return
        is_few = count_of_all(len(images)) < FEW
        self._fit(segments, images, held_out, 0 if is_few else 60 * minutes)
        self.is_taken_back = self._is_worse_than_cold(images, held_out)
        if self.is_taken_back or is_few:
            self.cold.restore_all()
        if is_few and not self.is_taken_back:
            self._fit(segments, images, 0, 60 * minutes)

    def _fit(self, segments: list[Segment], images: Spool, held_out: int, limit: float) -> None:
        self.passes.append(
            NetworkFit(
                self.converted, self.teacher, segments, self.settings, self.cold, held_out,
                self.ridges, self.progress,
            )
        )  # fmt: skip
        self.passes[-1].run(images, limit)

    def _is_worse_than_cold(self, images: Spool, held_out: int) -> bool:
        self.progress("looking at held-out images")
        size = batch_size(images.take([0]), 32)
        spans = split_spans(images.spans(size), len(images) - held_out, images.is_even)
        cold = self.cold.as_it_was()
        looks = self._outputs(images, spans[1])
        found = distances(2, ((wanted, (made, call(cold, x))) for x, wanted, made in looks))
        if found is None:
            return False
        warm, left = found
        what = (
            f"on {count_of_all(held_out)} images that were held out the output differs by "
            f"{warm:.2g} of its energy, as the conversion left it by {left:.2g}"
        )
        if not warm <= left + ROUNDING:
            self.notes.append(f"the fit is taken back, {what}: give more calibration images")
            return True
        some = self._outputs(images, spans[0][: len(spans[1])])
        (fitted,) = distances(1, ((wanted, [made]) for _, wanted, made in some)) or (warm,)
        is_few = warm > OVERFITTED * fitted + ROUNDING
        more = f", of those that were fitted to by {fitted:.2g}: give more calibration images"
        self.notes.append(what + (more if is_few else ""))
        return False

    @torch.no_grad()
    def _outputs(self, images: Spool, spans: Sequence[Span]) -> Iterator[tuple[Any, Any, Any]]:
        """Some images, and what the original and the fitted network make of them."""
        known = self.passes[-1].outputs
        for span in spans:
            x = images.slice(span)
            if known is not None:
                yield x, known[0].slice(span), known[1].slice(span)
            else:
                yield x, call(self.teacher, x), call(self.converted, x)

    def _with_held_out(self, fits: list[LayerFit]) -> list[LayerFit]:
        """Fits of the last pass with the errors of images that the first one held out."""
        first = {fit.name: fit.held_out for p in self.passes for fit in (*p.fits, *p.stage_fits)
                 if fit.held_out is not None}  # fmt: skip
        return [replace(fit, held_out=first.get(fit.name)) for fit in fits]

    def _result(self, fits: list[LayerFit], samples: int) -> WarmStart:
        order = [name for name, module in self.converted.named_modules()]
        self.notes += [note for done in self.passes[-1:] for note in done.notes]
        self.notes += self.cold.notes()
        missing = self.total - len({fit.name for fit in fits} | self.cold.ghosts())
        is_said = self.is_taken_back or any(note.startswith(INTERRUPTED) for note in self.notes)
        if missing and not is_said:
            self.notes.append(f"{missing} ghost modules are not fitted: no pass calls them")
        stages = [] if self.is_taken_back or not self.passes else self.passes[-1].stage_fits
        return WarmStart(
            tuple(sorted(fits, key=lambda fit: order.index(fit.name))),
            samples,
            tuple(self._with_held_out(stages)),
            sum(done.block_steps for done in self.passes),
            sum(done.network_steps for done in self.passes),
            notes=tuple(self.notes),
        )
