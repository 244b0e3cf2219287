"""The warm start without data: pairs and cheap kernels from the weights, means from the norms."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostify.warmstart.c_ghost.layers import GhostPair
from ghostify.warmstart.c_ghost.pairing import pair
from ghostify.warmstart.c_ghost.sequential import CHEAP_RIDGE
from ghostify.warmstart.fit.ridge import ghost_kernels, map_costs
from ghostify.warmstart.fit.statistics import require_finite
from ghostify.warmstart.result import LayerFit


@torch.no_grad()
def fit_without_data(layer: GhostPair) -> LayerFit:
    """Fit one ghost module as if its input were white noise.

    Then the product of two maps is that of their filters, and a shift of a map a shift of its
    filter; the ghosts are fitted as with data. Where a norm follows, its running mean is moved by
    what the ghosts' means, which follow from the intrinsic maps' means, differ.
    """
    conv, ghost, groups = layer.teacher, layer.ghost, layer.groups
    cheap = ghost.cheap
    assert cheap is not None
    m, copies = layer.intrinsic, layer.copies
    filters = conv.weight.detach().double().cpu().unflatten(0, (groups, -1))
    means = _means(layer).view(groups, -1)
    require_finite(filters, means)
    pairings, kernels, offsets = [], [], []
    left, total = 0.0, torch.zeros(()).double()
    for g in range(groups):
        shifts, targets = shifted(filters[g], ghost.d, conv.dilation)
        gram = shifts @ shifts.transpose(1, 2)
        cross = shifts @ targets.T
        energy = targets.square().sum(1)
        pairing = pair(map_costs(gram, cross, energy, CHEAP_RIDGE), m, copies)
        own = pairing.intrinsic
        kernel = ghost_kernels(gram, cross, own, pairing.ghosts, CHEAP_RIDGE)
        left, total = left + pairing.cost, total + energy.sum()
        gap = means[g][pairing.ghosts.clamp_min(0)] - kernel.sum(2) * means[g][own][:, None]
        pairings.append(pairing)
        kernels.append(kernel)
        offsets.append(gap)
    layer.arrange(pairings)
    cheap.weight.copy_(torch.cat(kernels).reshape(cheap.weight.shape).to(cheap.weight))
    bias = ghost.primary.bias
    kept = torch.zeros(groups, m) if bias is None else bias.detach().clone().view(groups, m)
    layer.set_offsets(kept, torch.stack(offsets), pairings)
    return LayerFit(layer.name, float(left / total.clamp_min(1e-30)), refitted=False)


def shifted(filters: Tensor, d: int, dilation: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Filters at all shifts of a d x d kernel, and themselves, in a frame that holds all of them.

    Args:
        filters: ``(n, c, kh, kw)``.
        d: Size of the cheap kernel.
        dilation: Of the filters; the frame counts in pixels of the convolution's output, which for
            a stride over 1 the shifts overlap less in (taken as stride 1 here).

    Returns:
        ``(n, d * d, frame)`` and ``(n, frame)``.
    """
    spread = _dilate(filters, dilation)
    padded = F.pad(spread, (d // 2,) * 4)
    frame = [
        torch.roll(padded, (a - d // 2, b - d // 2), (2, 3)).flatten(1)
        for a in range(d)
        for b in range(d)
    ]
    return torch.stack(frame, dim=1), padded.flatten(1)


def _dilate(filters: Tensor, dilation: tuple[int, ...]) -> Tensor:
    height, width = filters.shape[-2:]
    gaps = dilation[0], dilation[1]
    shape = (*filters.shape[:2], (height - 1) * gaps[0] + 1, (width - 1) * gaps[1] + 1)
    spread = filters.new_zeros(shape)
    spread[:, :, :: gaps[0], :: gaps[1]] = filters
    return spread


def _means(layer: GhostPair) -> Tensor:
    """Mean of each of the original's maps: what its norm remembers, else its bias, else zero."""
    if layer.norm is not None and layer.norm.running_mean is not None:
        return layer.norm.running_mean.detach().double().cpu().clone()
    if layer.teacher.bias is not None:
        return layer.teacher.bias.detach().double().cpu().clone()
    return torch.zeros(layer.teacher.out_channels).double()
