"""The warm start of G-Ghost stages: cheap operation and mix fitted, thin norms corrected."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ghostify.nn.g_ghost import GGhostStage
from ghostify.plans import StageRebuild
from ghostify.warmstart.fit import solve
from ghostify.warmstart.result import LayerFit
from ghostify.warmstart.spool import Spool
from ghostify.warmstart.statistics import Moments, Window, places

RIDGE = 1e-3
ROWS = 131_072
"""Places of all images together that a fit looks at."""


@dataclass(frozen=True)
class StageSubject:
    """A stage to fit.

    Attributes:
        name: Name of the stage.
        stage: The G-Ghost stage in the converted network.
        target: The original's module whose output the concat stands for.
        end: The original's module that gives the stage's output.
    """

    name: str
    stage: GGhostStage
    target: nn.Module
    end: nn.Module


def find_stages(
    rebuilt: Sequence[StageRebuild], original: nn.Module, converted: nn.Module
) -> Iterator[StageSubject]:
    """The stages that can be fitted: those whose blocks are modules."""
    for item in rebuilt:
        if item.functions is not None:
            continue
        stage = converted.get_submodule(item.place)
        if isinstance(stage, GGhostStage) and stage.ghosts:
            block = item.blocks[-1 if stage.last is None else -2]
            target, end = (original.get_submodule(names[-1]) for names in (block, item.blocks[-1]))
            yield StageSubject(item.name, stage, target, end)


@torch.no_grad()
def fit_stage(
    subject: StageSubject,
    original: nn.Module,
    converted: nn.Module,
    images: Spool,
    batch: int,
    seed: int,
) -> LayerFit:
    """Fit a stage's cheap operation (Eq. 9) and fully connected mix (Eq. 12) by least squares.

    Towards the ghost channels of what the original's blocks give, on what the converted network
    gives. The thin blocks' norms take the statistics of the images first, where that brings the
    thin path closer to the original.
    """
    stage = subject.stage
    _correct_norms(subject, original, converted, images, batch)
    parts = _Parts(stage)
    moments = Moments(1, parts.inputs, stage.channels - stage.complicated)
    generator = torch.Generator().manual_seed(seed)
    for y1, features, target in _views(subject, original, converted, images, batch):
        each = max(1, ROWS // len(images))
        rows, columns = places(target.shape[-2], target.shape[-1], each, generator)
        ghosts = target[:, stage.complicated :, rows, columns]
        if stage.cheap is None:
            ghosts = ghosts - y1[:, stage.complicated :, rows, columns]
        seen = parts.regressors(y1, features, rows, columns)
        moments.add(seen[None], ghosts.transpose(1, 2).flatten(0, 1)[None])
    solution = solve(moments, RIDGE, parts.prior())
    parts.write(solution.weight[0], solution.intercept[0])
    error = solution.residual.sum() / moments.variance().sum().clamp_min(1e-30)
    return LayerFit(subject.name, float(error), refitted=False)


class _Parts:
    """The parts of a stage that are fitted, as one linear map of windows and pooled features."""

    def __init__(self, stage: GGhostStage) -> None:
        self.stage = stage
        own = [] if stage.cheap is None else list(stage.cheap.modules())
        self.conv = next((m for m in own if isinstance(m, nn.Conv2d)), None)
        self.norm = next((m for m in own if isinstance(m, nn.BatchNorm2d)), None)
        fc = getattr(stage.mix, "fc", None)
        self.fc = fc if isinstance(fc, nn.Linear) else None
        self.taps = 0 if self.conv is None else self.conv.weight[0].numel()
        self.inputs = self.taps + (0 if self.fc is None else self.fc.in_features)

    def regressors(
        self, y1: Tensor, features: list[Tensor], rows: Tensor, columns: Tensor
    ) -> Tensor:
        """``(N * P, inputs)``."""
        found = [y1.new_zeros(len(y1) * len(rows), 0)]
        if self.conv is not None:
            sliced = self.stage.entry == "slice"
            source = y1[:, self.stage.complicated :] if sliced else y1
            window = Window.of(self.conv).patches(source, rows, columns)
            found.append(window.transpose(0, 1).flatten(1))
        if self.fc is not None:
            pooled = torch.cat([x.mean(dim=(2, 3)) for x in features], dim=1)
            found.append(pooled.repeat_interleave(len(rows), 0))
        return torch.cat(found, dim=1)

    def prior(self) -> Tensor:
        """What the parts are now, ``(1, outputs, inputs)``."""
        parts: list[Tensor] = []
        if self.conv is not None:
            parts.append(self.conv.weight.double().cpu().flatten(1))
        if self.fc is not None:
            parts.append(self.fc.weight.double().cpu())
        outputs = self.stage.channels - self.stage.complicated
        none = torch.zeros(outputs, 0, dtype=torch.float64)
        return torch.cat([none, *parts], dim=1)[None]

    def write(self, weight: Tensor, offset: Tensor) -> None:
        """Put a solution into the parts; the norm becomes the addition of the offset."""
        if self.conv is not None and self.norm is not None:
            self.conv.weight.copy_(weight[:, : self.taps].reshape(self.conv.weight.shape))
            self.norm.reset_running_stats()
            self.norm.weight.fill_((1 + self.norm.eps) ** 0.5)
            self.norm.bias.copy_(offset)
        if self.fc is not None:
            self.fc.weight.copy_(weight[:, self.taps :])
            if self.norm is None:
                self.fc.bias.copy_(offset)


def _views(
    subject: StageSubject, original: nn.Module, converted: nn.Module, images: Spool, batch: int
) -> Iterator[tuple[Tensor, list[Tensor], Tensor]]:
    """Batch by batch: Y1, the features that are mixed, and what the original gives."""
    stage = subject.stage
    for x in images.batches(batch):
        with (
            outputs_of([subject.target]) as wanted,
            outputs_of([stage.first, *stage.thin]) as made,
        ):
            original(x)
            converted(x)
        y1, *thin = made
        yield y1, ([y1, *thin] if stage.mix_from == "all" else list(thin)), wanted[0]


def _correct_norms(
    subject: StageSubject, original: nn.Module, converted: nn.Module, images: Spool, batch: int
) -> None:
    """Give the thin blocks' norms the images' statistics, unless that leads further away."""
    norms = [m for m in subject.stage.thin.modules() if isinstance(m, _BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    before = _thin_error(subject, original, converted, images, batch)
    saved = [copy.deepcopy(norm.state_dict()) for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over all batches
        norm.train()
    for x in images.batches(batch):
        converted(x)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
    if _thin_error(subject, original, converted, images, batch) >= before:
        for norm, state in zip(norms, saved, strict=True):
            norm.load_state_dict(state)


def _thin_error(
    subject: StageSubject, original: nn.Module, converted: nn.Module, images: Spool, batch: int
) -> float:
    total = 0.0
    for _, features, target in _views(subject, original, converted, images, batch):
        total += float((features[-1] - target[:, : subject.stage.complicated]).square().sum())
    return total


@contextmanager
def outputs_of(modules: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """What some modules give, in the order of their calls."""
    seen: list[Any] = []
    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_hook(lambda _, args, out: seen.append(out))
            stack.callback(handle.remove)
        yield seen
