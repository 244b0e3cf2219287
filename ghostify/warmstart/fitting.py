"""Every part of a converted network fitted to the original's, one after the other."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import dropwhile

import torch
from torch import nn

from ghostify.data.calibration import batch_size
from ghostify.data.spool import Span, Spool, common_spans
from ghostify.graph.segments import Segment
from ghostify.nn.ghost import PairedGhost
from ghostify.progress import Milestone, Progress
from ghostify.saving.history import history_of
from ghostify.settings import Calibration
from ghostify.tuning.descent import Budget
from ghostify.tuning.norms import norms_take_statistics
from ghostify.warmstart.c_ghost.batches import SegmentPair
from ghostify.warmstart.c_ghost.layers import (
    GhostPair,
    LayerPair,
    find_ghost_pairs,
    find_layer_pairs,
)
from ghostify.warmstart.c_ghost.lessons import Lessons
from ghostify.warmstart.c_ghost.sequential import fit_segment
from ghostify.warmstart.cold import ColdStart
from ghostify.warmstart.fit.held_out import RidgeChoices
from ghostify.warmstart.fit.sampling import PairedInputs
from ghostify.warmstart.g_ghost.stages import (
    StagePair,
    find_stage_pairs,
    fit_stage,
    outputs_beside,
    tune_stage,
)
from ghostify.warmstart.parts import NetworkPart, PartsInTurn, are_alike, parts_in_order
from ghostify.warmstart.reconstruct import View, outputs_along, tune_network, tune_part
from ghostify.warmstart.result import LayerFit

WHOLE = Segment(None, (), ())
"""A whole network: what is fitted in it is watched by hooks."""

SHARE = 0.5
"""Part of the time of reconstruction for single blocks or stages; the network has the rest."""

AS_BLOCKS = 4
"""A stage is tuned for as many steps as so many blocks."""


class NetworkFit:
    """One pass of fitting through a converted network, and what came of it so far.

    Args:
        converted: The converted network, in eval mode; its weights change.
        teacher: The original, likewise; it is not changed.
        segments: Of both.
        settings: How it is fitted.
        cold: What the converted network was before.
        held_out: How many images, the last ones, are not fitted to.
        ridges: Chosen on these; those of an earlier pass are taken where there are none.
        progress: Told what is done now.

    Attributes:
        fits: How well each ghost module explains its layer.
        stage_fits: How well each G-Ghost stage explains its channels.
        block_steps: Steps of reconstruction of blocks.
        network_steps: Steps of reconstruction of the network.
        notes: What a reader must know.
        outputs: Of all images, the original's and the converted network's, where some are held out
            and a last pass made them.
    """

    def __init__(
        self,
        converted: nn.Module,
        teacher: nn.Module,
        segments: Sequence[Segment],
        settings: Calibration,
        cold: ColdStart,
        held_out: int,
        ridges: RidgeChoices,
        progress: Progress,
    ) -> None:
        self.converted, self.teacher, self.segments = converted, teacher, segments
        self.settings, self.cold, self.progress = settings, cold, progress
        self.held_out, self.ridges, self.count = held_out, ridges, 0
        plans = history_of(converted).plans
        self.stages = plans[-1].stages if plans else ()
        ghosts = sum(isinstance(m, PairedGhost) for m in converted.modules())
        self.parts = ghosts + len(self.stages)
        self.fits: list[LayerFit] = []
        self.stage_fits: list[LayerFit] = []
        self.block_steps = self.network_steps = 0
        self.notes: list[str] = []
        self.outputs: tuple[Spool, Spool] | None = None

    def _tell(self, text: str) -> None:
        """Say what is done now, and which part of the fits is behind."""
        done = len(self.fits) + len(self.stage_fits)
        self.progress(Milestone(text, done / max(self.parts, 1)))

    def _is_ghost(self, name: str) -> bool:
        return is_ghost(self.converted, name)

    def run(self, images: Spool, limit: float) -> None:
        """Fit all parts, and tune them for at most so many seconds."""
        self.count = len(images)
        with self.cold.instead_of(self._rest()):
            if self.stages:
                self._fit_stages(images, limit)
            else:
                self._fit_and_tune(images, limit)

    def _rest(self, part: NetworkPart | None = None) -> Iterator[str]:
        """The ghost modules (of a part) that are not fitted yet."""
        done = {fit.name for fit in self.fits}
        for name, module in (self.converted if part is None else part.student).named_modules():
            own = name if part is None else part.name_of(name)
            if isinstance(module, PairedGhost) and own not in done:
                yield own

    def _fit_and_tune(self, images: Spool, limit: float) -> None:
        if self.segments[0].entry is None:
            self._fit_parts(images)
            named = self.converted.named_modules()
            ghosts = {n: m for n, m in named if isinstance(m, PairedGhost)}
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
        whole = self._paired(images, images, batch)
        spans = [*whole.spans(), *whole.spans(held_out=True)]
        teacher, student = (PartsInTurn(n, images, spans) for n in (self.teacher, self.converted))
        for name, calls in parts_in_order(self.teacher, images).items():
            part = NetworkPart(
                name, self.teacher.get_submodule(name), self.converted.get_submodule(name)
            )
            if not (self.fits or any(isinstance(m, PairedGhost) for m in part.student.modules())):
                teacher.pass_by(name)
                student.pass_by(name)
                continue
            self._tell(f"looking at {name or 'the network'}")
            with self.cold.instead_of(self._rest(part)):
                before, after = (network.inputs_of(name, calls) for network in (teacher, student))
                segments = part.split(self._is_ghost, before)
                if not are_alike(before, after):
                    self._fit_watched(part, NetworkPart("", self.teacher, self.converted), whole)
                elif segments:
                    self._fit_chain(part, segments, before, after)
                else:
                    self._fit_watched(part, part, self._paired(before, after, batch))

    def _paired(self, before: Spool, after: Spool, batch: int) -> PairedInputs:
        """Inputs of a part; there may be several, or none, of one image."""
        held_out = self.held_out * len(after) // self.count
        return PairedInputs(before, after, batch, self.settings.seed, held_out, self.ridges)

    def _fit_watched(self, part: NetworkPart, holder: NetworkPart, inputs: PairedInputs) -> None:
        """The layers of a part without a graph, each watched in passes of the part or of more.

        Args:
            part: What the layers are in.
            holder: What is run: the part itself, or the whole network.
            inputs: Of that.
        """
        names = {part.name_of(name) for name, _ in part.teacher.named_modules()}
        inside = [name for name, _ in holder.teacher.named_modules()]
        layers = tuple(name for name in inside if holder.name_of(name) in names)
        networks = SegmentPair(WHOLE, holder.teacher, holder.student, inputs)
        subjects = self._to_fit(replace(WHOLE, layers=layers), holder)
        lessons = Lessons(WHOLE, holder.teacher, inputs, subjects)
        self.fits += fit_segment(networks, subjects, lessons, self.cold)
        with norms_take_statistics(part.student):
            spans = inputs.student.spans(inputs.batch)
            _pass(WHOLE, holder.student, inputs.student, spans, keep=False)

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
        # Outputs tell whether a fit is any good, where some are held out and no tuning follows.
        is_judged = part.student is self.converted and bool(self.held_out) and not limit
        holders = sum(any(self._is_ghost(part.name_of(n)) for n in s.layers) for s in segments)
        for segment in segments:
            batch = batch_size(before.take([0]), 128)
            inputs = self._paired(before, after, batch)
            networks = SegmentPair(segment, part.teacher, part.student, inputs)
            subjects = self._to_fit(segment, part)
            tunes = bool(limit) and any(isinstance(s, GhostPair) for s in subjects)
            for subject in subjects[:1]:
                self._tell(f"fitting {subject.name}")
            keep = is_judged or segment is not segments[-1]
            lessons = Lessons(segment, part.teacher, inputs, subjects, tunes or keep)
            for fit in fit_segment(networks, subjects, lessons, self.cold):
                self.fits.append(fit)
                self._tell(f"fitted {fit.name}")
            targets = lessons.output
            if tunes:
                # Half of the time is for the blocks, evenly; the whole network has the rest.
                share = SHARE * limit / holders
                self._tell(f"reconstructing the block of {subjects[-1].name}")
                start = time.perf_counter()
                size = min(batch, 32)
                budget = Budget(chosen.block_steps, share)
                self.block_steps += tune_part(
                    [part.student.get_submodule(name) for name in segment.layers],
                    partial(segment.run, part.student),
                    after, targets, budget, size, chosen.seed, inputs.held_out,
                )  # fmt: skip
                spent += time.perf_counter() - start
            with norms_take_statistics(part.student):
                # What can't be cut must lie in the same pieces in both networks.
                spans = common_spans(batch, after, targets)
                after = _pass(segment, part.student, after, spans, keep)
            before = targets
        if is_judged and before.is_even and after.is_even:
            self.outputs = before, after
        return spent

    def _to_fit(self, segment: Segment, part: NetworkPart | None = None) -> list[LayerPair]:
        """A segment's layers; what comes before the first ghost module gets what it always got."""
        part = NetworkPart("", self.teacher, self.converted) if part is None else part
        found = find_layer_pairs(segment, part.teacher, part.student, self.converted)
        subjects = [replace(subject, name=part.name_of(subject.name)) for subject in found]
        if self.fits:
            return subjects
        return list(dropwhile(lambda subject: not isinstance(subject, GhostPair), subjects))

    def _fit_stages(self, images: Spool, limit: float) -> None:
        """G-Ghost: stage after stage, then the whole network, with the stages' outputs."""
        batch = batch_size(images.take([0]), 128)
        left = limit
        subjects = list(find_stage_pairs(self.stages, self.teacher, self.converted))
        for subject in self._in_order(subjects):
            self._tell(f"fitting {subject.name}")
            if isinstance(subject, GhostPair):
                inputs = self._paired(images, images, batch)
                networks = SegmentPair(WHOLE, self.teacher, self.converted, inputs)
                lessons = Lessons(WHOLE, self.teacher, inputs, [subject])
                self.fits.extend(fit_segment(networks, [subject], lessons, self.cold))
                continue
            with self.cold.instead(subject.item.place):
                fit = fit_stage(subject, self.teacher, self.converted, images, batch, self._paired)
                self.stage_fits.append(fit)
            if limit:
                left -= self._tune_stage(subject, images, batch, SHARE * limit / len(subjects))
        if len(subjects) < len(self.stages):
            self.notes.append(
                f"{len(self.stages) - len(subjects)} stages are not fitted: they have no ghosts, "
                "or blocks that are no modules"
            )

        with norms_take_statistics(self.converted):
            _pass(WHOLE, self.converted, images, images.spans(batch), keep=False)

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
        self._tell(f"reconstructing {subject.name}")
        start = time.perf_counter()
        budget, size = Budget(AS_BLOCKS * self.settings.block_steps, seconds), min(batch, 64)
        self.block_steps += tune_stage(
            subject,
            self.teacher,
            self.converted,
            images,
            batch,
            budget,
            size,
            self.settings.seed,
            self.held_out,
        )
        return time.perf_counter() - start

    def _tune_network(self, images: Spool, seconds: float, taught: View, made: View) -> None:
        chosen = self.settings
        if seconds > 0:
            size = batch_size(images.take([0]), 32)
            budget = Budget(chosen.network_steps, seconds)
            self.network_steps = tune_network(
                taught, made, self.converted, images, budget, size, chosen.seed,
                self.held_out, self.progress,
            )  # fmt: skip


def is_ghost(network: nn.Module, name: str) -> bool:
    """Whether a network has a ghost module of that name."""
    try:
        return isinstance(network.get_submodule(name), PairedGhost)
    except AttributeError:
        return False


@torch.no_grad()
def _pass(
    segment: Segment, network: nn.Module, inputs: Spool, spans: Sequence[Span], keep: bool = True
) -> Spool:
    """What a segment gives; nothing of it where it is not to be kept."""
    outputs = Spool()
    for start, end in spans:
        output = segment.run(network, inputs.slice((start, end)))
        if keep:
            outputs.append(output, end - start)
    return outputs
