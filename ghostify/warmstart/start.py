"""The warm start of a converted network, from calibration images or from the weights alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import dropwhile

import torch
from torch import nn

from ghostify.data.calibration import batch_size, images_for
from ghostify.data.spool import Spool
from ghostify.distributed import sum_over_processes
from ghostify.errors import SettingsError
from ghostify.graph.calls import names_of
from ghostify.graph.meta_copy import copy_network
from ghostify.graph.segments import Segment, split
from ghostify.nn.ghost import GhostConv
from ghostify.nn.modes import eval_mode, single_precision, to_single
from ghostify.numerics.random_state import keep_random_state
from ghostify.saving.history import INTERRUPTED, history_of
from ghostify.settings import Calibration
from ghostify.tuning.descent import Budget
from ghostify.tuning.norms import norms_take_statistics
from ghostify.warmstart.c_ghost.batches import SegmentPair
from ghostify.warmstart.c_ghost.datafree import fit_without_data
from ghostify.warmstart.c_ghost.layers import (
    GhostPair,
    LayerPair,
    find_ghost_pairs,
    find_layer_pairs,
)
from ghostify.warmstart.c_ghost.sequential import fit_segment
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.sampling import PairedInputs
from ghostify.warmstart.folding import fold_orders
from ghostify.warmstart.g_ghost.stages import (
    StagePair,
    find_stage_pairs,
    fit_stage,
    outputs_beside,
    tune_stage,
)
from ghostify.warmstart.parts import NetworkPart, are_alike, inputs_of, parts_in_order
from ghostify.warmstart.reconstruct import (
    View,
    outputs_along,
    tune_network,
    tune_part,
)
from ghostify.warmstart.result import LayerFit, WarmStart

WHOLE = Segment(None, (), ())
"""A whole network: what is fitted in it is watched by hooks."""

SHARE = 0.5
"""Part of the time of reconstruction for single blocks or stages; the network has the rest."""

AS_BLOCKS = 4
"""A stage is tuned for as many steps as so many blocks."""

Progress = Callable[[str], None]


def warm_start_(
    converted: nn.Module,
    original: nn.Module,
    calibration: Calibration,
    *,
    input_size: tuple[int, ...] = (),
    progress: Progress = lambda _: None,
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
    began = time.perf_counter()
    teacher = to_single(copy_network(original).eval())
    modes = eval_mode(converted), single_precision(converted)
    with modes[0], modes[1], keep_random_state(calibration.seed):
        run = _Run(converted, teacher, calibration, progress)
        result = run.without_data() if calibration.is_data_free else run.with_images(input_size)
    return replace(result, seconds=time.perf_counter() - began)


class _Run:
    """One warm start: the two networks, and what came of it so far."""

    def __init__(
        self, converted: nn.Module, teacher: nn.Module, settings: Calibration, progress: Progress
    ) -> None:
        self.converted, self.teacher, self.settings, self.progress = (
            converted,
            teacher,
            settings,
            progress,
        )
        self.segments: list[Segment] = []
        self.total = sum(isinstance(m, GhostConv) for m in converted.modules())
        plans = history_of(converted).plans
        self.stages = plans[-1].stages if plans else ()
        self.fits: list[LayerFit] = []
        self.stage_fits: list[LayerFit] = []
        self.block_steps = self.network_steps = 0
        self.notes: list[str] = []
        self.cold = ColdStart(converted)

    def _is_ghost(self, name: str) -> bool:
        try:
            return isinstance(self.converted.get_submodule(name), GhostConv)
        except AttributeError:
            return False

    def without_data(self) -> WarmStart:
        """From the weights alone."""
        if self.stages:
            raise SettingsError(
                "G-Ghost stages can't be fitted without data: give images, calibration=FOLDER."
            )
        self.segments = split(self.teacher, self._is_ghost)
        for segment in self.segments:
            for subject in find_ghost_pairs(segment, self.teacher, self.converted):
                self.progress(f"fitting {subject.name} from its weights")
                with self.cold.instead(subject.name):
                    self.fits.append(fit_without_data(subject))
        self.cold.mend()
        fold_orders(self.segments, self.converted)
        self.notes.append("data-free: the errors are for white inputs, not for real images")
        return self._result(0)

    def with_images(self, input_size: tuple[int, ...]) -> WarmStart:
        """From images."""
        self.progress("reading calibration images")
        images, notes = images_for(self.teacher, self.settings, input_size)
        self.notes += notes
        names = names_of(self.teacher, images.take([0]))
        self.segments = split(self.teacher, self._is_ghost, names)
        try:
            if self.stages:
                self._fit_stages(images)
            else:
                self._fit_and_tune(images)
        except KeyboardInterrupt:
            done = f"{len(self.fits)} of {self.total} layers are fitted, " if self.total else ""
            self.notes.append(
                f"{INTERRUPTED}{done}what was not reached is as the conversion left it"
            )
        self.cold.mend()
        if not self.stages:
            fold_orders(self.segments, self.converted)
        return self._result(_of_all(len(images)))

    def _fit_and_tune(self, images: Spool) -> None:
        limit = math.inf if self.settings.minutes is None else 60 * self.settings.minutes
        if self.segments[0].entry is None:
            self._fit_parts(images)
            named = self.converted.named_modules()
            ghosts = {n: m for n, m in named if isinstance(m, GhostConv)}
            convs = [self.teacher.get_submodule(name) for name in ghosts]
            self._tune_network(
                images,
                limit,
                lambda x: outputs_beside(self.teacher, convs, x),
                lambda x: outputs_beside(self.converted, list(ghosts.values()), x),
            )
            return
        whole = NetworkPart("", self.teacher, self.converted)
        left = limit - self._fit_chain(whole, self.segments, images, images, limit)
        if limit:
            self._tune_network(
                images,
                left,
                lambda x: outputs_along(self.teacher, self.segments, x),
                lambda x: outputs_along(self.converted, self.segments, x),
            )

    def _fit_parts(self, images: Spool) -> None:
        """A network that does not trace: its parts that do, as chains, and the layers between."""
        batch = batch_size(images.take([0]), 128)
        for name in parts_in_order(self.teacher, images):
            part = NetworkPart(
                name, self.teacher.get_submodule(name), self.converted.get_submodule(name)
            )
            if not (self.fits or any(isinstance(m, GhostConv) for m in part.student.modules())):
                continue
            self.progress(f"looking at {name or 'the network'}")
            before, after = (
                inputs_of(name, network, images, batch)
                for network in (self.teacher, self.converted)
            )
            segments = part.split(self._is_ghost, before)
            if segments and are_alike(before, after):
                self._fit_chain(part, segments, before, after)
            else:
                self._fit_watched(part, images, batch)

    def _fit_watched(self, part: NetworkPart, images: Spool, batch: int) -> None:
        """The layers of a part without a graph, each watched in passes of the whole network."""
        names = [part.name_of(name) for name, _ in part.teacher.named_modules()]
        inputs = PairedInputs(images, images, batch, self.settings.seed)
        networks = SegmentPair(WHOLE, self.teacher, self.converted, inputs)
        segment = replace(WHOLE, layers=tuple(names))
        self.fits += fit_segment(networks, self._to_fit(segment), self.cold)
        with norms_take_statistics(part.student):
            _pass(WHOLE, self.converted, images, batch, keep=False)

    def _fit_chain(
        self,
        part: NetworkPart,
        segments: Sequence[Segment],
        before: Spool,
        after: Spool,
        limit: float = 0,
    ) -> float:
        """Segment after segment; returns the seconds that the reconstruction of blocks took.

        Args:
            part: Whose segments they are.
            segments: In order.
            before: What the part gets in the original.
            after: In the converted network.
            limit: Seconds for the whole reconstruction.
        """
        chosen, spent = self.settings, 0.0
        holders = sum(any(self._is_ghost(part.name_of(n)) for n in s.layers) for s in segments)
        for segment in segments:
            batch = batch_size(before.take([0]), 128)
            inputs = PairedInputs(before, after, batch, chosen.seed)
            networks = SegmentPair(segment, part.teacher, part.student, inputs)
            subjects = self._to_fit(segment, part)
            for subject in subjects[:1]:
                self.progress(f"fitting {subject.name}")
            for fit in fit_segment(networks, subjects, self.cold):
                self.fits.append(fit)
                self.progress(f"fitted {fit.name}")
            is_last = segment is segments[-1]
            tunes = bool(limit) and any(isinstance(s, GhostPair) for s in subjects)
            goes_on = tunes or not is_last
            targets = _pass(segment, part.teacher, before, batch) if goes_on else before
            if tunes:
                # Half of the time is for the blocks, evenly; the whole network has the rest.
                share = SHARE * limit / holders
                self.progress(f"reconstructing the block of {subjects[-1].name}")
                start = time.perf_counter()
                size = min(batch, 32)
                budget = Budget(chosen.block_steps, share)
                self.block_steps += tune_part(
                    [part.student.get_submodule(name) for name in segment.layers],
                    partial(segment.run, part.student),
                    after, targets, budget, size, chosen.seed,
                )  # fmt: skip
                spent += time.perf_counter() - start
            with norms_take_statistics(part.student):
                after = _pass(segment, part.student, after, batch, keep=not is_last)
            before = targets
        return spent

    def _to_fit(self, segment: Segment, part: NetworkPart | None = None) -> list[LayerPair]:
        """A segment's layers; what comes before the first ghost module gets what it always got."""
        part = NetworkPart("", self.teacher, self.converted) if part is None else part
        found = find_layer_pairs(segment, part.teacher, part.student, self.converted)
        subjects = [replace(subject, name=part.name_of(subject.name)) for subject in found]
        if self.fits:
            return subjects
        return list(dropwhile(lambda subject: not isinstance(subject, GhostPair), subjects))

    def _fit_stages(self, images: Spool) -> None:
        """G-Ghost: stage after stage, then the whole network, with the stages' outputs."""
        chosen = self.settings
        batch = batch_size(images.take([0]), 128)
        left = limit = math.inf if chosen.minutes is None else 60 * chosen.minutes
        subjects = list(find_stage_pairs(self.stages, self.teacher, self.converted))
        for subject in self._in_order(subjects):
            self.progress(f"fitting {subject.name}")
            if isinstance(subject, GhostPair):
                inputs = PairedInputs(images, images, batch, chosen.seed)
                networks = SegmentPair(WHOLE, self.teacher, self.converted, inputs)
                self.fits.extend(fit_segment(networks, [subject], self.cold))
                continue
            with self.cold.instead(subject.item.place):
                fit = fit_stage(subject, self.teacher, self.converted, images, batch, chosen.seed)
                self.stage_fits.append(fit)
            if limit:
                left -= self._tune_stage(subject, images, batch, SHARE * limit / len(subjects))
        if len(subjects) < len(self.stages):
            self.notes.append(
                f"{len(self.stages) - len(subjects)} stages are not fitted: they have no ghosts, "
                "or blocks that are no modules"
            )

        with norms_take_statistics(self.converted):
            _pass(WHOLE, self.converted, images, batch, keep=False)

        self._tune_network(
            images,
            left,
            lambda x: outputs_beside(self.teacher, [s.end for s in subjects], x),
            lambda x: outputs_beside(self.converted, [s.stage for s in subjects], x),
        )

    def _in_order(self, stages: list[StagePair]) -> list[StagePair | GhostPair]:
        """The stages, and the ghost modules outside them, in the network's order."""
        order = [name for name, _ in self.converted.named_modules()]
        outside = replace(WHOLE, layers=tuple(order))
        layers = find_ghost_pairs(outside, self.teacher, self.converted)
        places: dict[str, StagePair | GhostPair] = {layer.name: layer for layer in layers}
        places |= {stage.item.place: stage for stage in stages}
        return [places[name] for name in order if name in places]

    def _tune_stage(self, subject: StagePair, images: Spool, batch: int, seconds: float) -> float:
        """Reconstruct one stage; returns the seconds it took."""
        self.progress(f"reconstructing {subject.name}")
        start = time.perf_counter()
        budget, size = Budget(AS_BLOCKS * self.settings.block_steps, seconds), min(batch, 64)
        self.block_steps += tune_stage(
            subject, self.teacher, self.converted, images, batch, budget, size, self.settings.seed
        )
        return time.perf_counter() - start

    def _tune_network(self, images: Spool, seconds: float, taught: View, made: View) -> None:
        chosen = self.settings
        if seconds > 0:
            size = batch_size(images.take([0]), 32)
            budget = Budget(chosen.network_steps, seconds)
            self.network_steps = tune_network(
                taught, made, self.converted, images, budget, size, chosen.seed,
                self.progress,
            )  # fmt: skip

    def _result(self, samples: int) -> WarmStart:
        order = [name for name, module in self.converted.named_modules()]
        fits = sorted(self.fits, key=lambda fit: order.index(fit.name))
        self.notes += self.cold.notes()
        missing = self.total - len({fit.name for fit in fits} | self.cold.ghosts())
        if missing and not any(note.startswith(INTERRUPTED) for note in self.notes):
            self.notes.append(f"{missing} ghost modules are not fitted: no pass calls them")
        return WarmStart(
            tuple(fits),
            samples,
            tuple(self.stage_fits),
            self.block_steps,
            self.network_steps,
            notes=tuple(self.notes),
        )


def _of_all(count: int) -> int:
    """A count of this process, added up over all."""
    total = torch.tensor(count)
    sum_over_processes(total)
    return int(total)


@torch.no_grad()
def _pass(
    segment: Segment, network: nn.Module, inputs: Spool, batch: int, keep: bool = True
) -> Spool:
    """What a segment gives; nothing of it where it is not to be kept."""
    outputs = Spool()
    for start, end in inputs.spans(batch):
        output = segment.run(network, inputs.slice((start, end)))
        if keep:
            outputs.append(output, end - start)
    return outputs
