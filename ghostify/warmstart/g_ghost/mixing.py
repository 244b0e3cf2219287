"""The parts of a G-Ghost stage beside its blocks: cheap operation (Eq. 9), mix (Eq. 11)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.data.spool import Spool
from ghostify.nn.g_ghost import GGhostStage, Mix
from ghostify.warmstart.fit.ridge import Solution, unexplained_by
from ghostify.warmstart.fit.sampling import WIDEST, PairedInputs, Places, Window, pick
from ghostify.warmstart.fit.statistics import RegressionMoments

RIDGE = 1e-3
MIX_RIDGES = (RIDGE, 1e-2, 1e-1, 1.0, 10.0)
"""Of the mix, if there is one: pooled features are as few as there are images."""

ROWS = 131_072
"""Places of all images together that a fit looks at."""

OPEN = 3.0
"""Standard deviations by which the hidden units of an ``mlp`` mix start above zero."""


@dataclass(frozen=True)
class StageBatches:
    """Data for fitting the ghosts of a stage, of all images.

    Attributes:
        y1: Output of the student's first block, ``(N, c, H, W)`` or ``(N, H, W, c)``.
        features: The mix's inputs, pooled: ``(N, C_i)`` each.
        target: The teacher's values where the student has its concat, of the same shape.
        inputs: Of the thin blocks: which images are held out, and the ridges that they choose.
    """

    y1: Spool
    features: tuple[Spool, ...]
    target: Spool
    inputs: PairedInputs

    def batches(self, held_out: bool) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """``(y1, features, target)`` of some images: those to fit, or the others."""
        spools = (self.y1, *self.features, self.target)
        for span in self.inputs.spans(held_out):
            y1, *features, target = (spool.slice(span) for spool in spools)
            yield y1, torch.cat([y1.new_zeros(len(y1), 0), *features], 1), target


@torch.no_grad()
def fit_ghosts(stage: GGhostStage, data: StageBatches) -> tuple[float, float | None]:
    """Fit cheap operation and mix at once, by least squares, to the original's ghost channels.

    Returns:
        What the ghosts leave unexplained of the variance of their channels, and the same for
        images that are held out, if there are any.
    """
    parts = _Parts(stage)
    fitted, held_out = (
        RegressionMoments.of(1, parts.inputs, parts.outputs, _rows(stage, parts, data, is_held_out))
        for is_held_out in (False, True)
    )
    ridges = [parts.ridges(ridge) for ridge in MIX_RIDGES]
    found = data.inputs.ridges.solve(stage, fitted, held_out, ridges, parts.prior())
    parts.write(found.weight[0], found.intercept[0], fitted)
    return _part_left(fitted, found), _part_left(held_out, found) if held_out.count else None


def _rows(
    stage: GGhostStage, parts: _Parts, data: StageBatches, held_out: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    ghosts = stage.chosen()[stage.complicated :]
    sampler = data.inputs.sampler(ROWS)
    for y1, features, values in data.batches(held_out):
        target = stage.as_maps(values)
        places = sampler.sample(target.shape)
        wanted = pick(target[:, ghosts], *places)
        if stage.cheap is None:
            wanted = wanted - pick(stage.cheapened(y1), *places)
        seen = parts.regressors(y1, features, places)
        yield seen.flatten(0, 1)[None], wanted.flatten(0, 1)[None]


def _part_left(moments: RegressionMoments, found: Solution) -> float:
    left = float(unexplained_by(moments, found).sum())
    return left / max(float(moments.variance().sum()), 1e-30)


class _Parts:
    """The parts of a stage that are fitted, as one linear map of windows and pooled features."""

    def __init__(self, stage: GGhostStage) -> None:
        self.stage = stage
        own = [] if stage.cheap is None else list(stage.cheap.modules())
        self.conv = next((m for m in own if isinstance(m, _ConvNd)), None)
        self.norm = next((m for m in own if isinstance(m, _BatchNorm)), None)
        self.taps = 0 if self.conv is None else self.conv.weight[0].numel()
        self.mix = stage.mix
        if self.mix is not None and self.taps + self.mix.in_channels > WIDEST:
            self.mix = None
        self.features = 0 if self.mix is None else self.mix.in_channels
        self.inputs, self.outputs = self.taps + self.features, stage.channels - stage.complicated

    def regressors(self, y1: Tensor, features: Tensor, places: Places) -> Tensor:
        """``(N, P, inputs)``."""
        found = []
        if self.conv is not None:
            seen = Window.of(self.conv).regressors(self.stage.cheapened(y1), places)[0]
            found.append(seen.unflatten(0, (len(y1), -1)))
        if self.features:
            found.append(features[:, None].expand(-1, len(places[0]), -1))
        return torch.cat([y1.new_zeros(len(y1), len(places[0]), 0), *found], dim=2)

    def ridges(self, ridge: float) -> Tensor:
        """Relative ridge of each regressor: the one given, of the features if there are any."""
        of_taps = RIDGE if self.features else ridge
        return torch.tensor([of_taps] * self.taps + [ridge] * self.features, dtype=torch.float64)

    def prior(self) -> Tensor:
        """The cheap operation as it is, no mix: ``(1, outputs, inputs)``."""
        taps = torch.zeros(self.outputs, 0, dtype=torch.float64)
        if self.conv is not None:
            taps = self.conv.weight.double().cpu().flatten(1)
        return torch.cat([taps, taps.new_zeros(self.outputs, self.features)], dim=1)[None]

    def write(self, weight: Tensor, offset: Tensor, moments: RegressionMoments) -> None:
        """Put a solution into the parts; a norm becomes the addition of the offset."""
        if self.conv is not None and self.norm is not None:
            self.conv.weight.copy_(weight[:, : self.taps].reshape(self.conv.weight.shape))
            _make_addition(self.norm, offset)
            offset = torch.zeros_like(offset)
        if self.mix is not None:
            count = max(moments.count, 1)
            mean = moments.gram[0, self.taps : -1, -1] / count
            gram = moments.gram[0, self.taps : -1, self.taps : -1] / count
            write_mix(self.mix, weight[:, self.taps :], offset, mean, gram - mean[:, None] * mean)


def write_mix(mix: Mix, weight: Tensor, offset: Tensor, mean: Tensor, covariance: Tensor) -> None:
    """Make a mix the linear map of least squares.

    An ``mlp`` becomes it too: its hidden units are what the map gives, well above the ReLU's zero.

    Args:
        mix: The mix.
        weight: ``(outputs, features)``.
        offset: ``(outputs,)``.
        mean: Of the features.
        covariance: Of the features.
    """
    if mix.kind == "fc":
        mix.fc.weight.copy_(weight.view_as(mix.fc.weight))
        assert mix.fc.bias is not None
        mix.fc.bias.copy_(offset)
        return
    hidden = weight @ mean
    spread = ((weight @ covariance) * weight).sum(1).clamp_min(0)
    unused = spread < 1e-12
    spread = torch.where(unused, 1.0, spread)
    mix.conv1.weight.copy_(weight.view_as(mix.conv1.weight))
    _make_addition(mix.bn1, torch.full_like(hidden, OPEN))
    mix.bn1.weight.fill_(1)
    assert mix.bn1.running_mean is not None and mix.bn1.running_var is not None
    mix.bn1.running_mean.copy_(hidden)
    mix.bn1.running_var.copy_(spread)
    scale = torch.where(unused, 0.0, (spread + mix.bn1.eps).sqrt())
    mix.conv2.weight.copy_(scale.diag().view_as(mix.conv2.weight))
    _make_addition(mix.bn2, offset + hidden - OPEN * scale)


def _make_addition(norm: _BatchNorm, offset: Tensor) -> None:
    norm.reset_running_stats()
    norm.weight.fill_((1 + norm.eps) ** 0.5)
    norm.bias.copy_(offset)
