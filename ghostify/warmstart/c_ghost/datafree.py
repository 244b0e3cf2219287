"""The warm start without data: pairs and cheap kernels from the weights, means from the norms."""

from __future__ import annotations

from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.filters import filters_of
from ghostify.nn.ghost import KernelSize, sizes_of
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
    conv, ghost, groups = layer.conv, layer.ghost, layer.groups
    cheap = ghost.cheap
    assert cheap is not None
    m, copies = layer.intrinsic, layer.copies
    filters = _filters_by_group(conv)
    means = _means(layer).view(groups, -1)
    require_finite(filters, means)
    pairings, kernels, offsets = [], [], []
    left, total = 0.0, torch.zeros(()).double()
    for g in range(groups):
        shifts, targets = shifted(filters[g], layer.sizes, conv.dilation)
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


def white_errors(conv: _ConvNd, d: KernelSize) -> tuple[Tensor, float]:
    """What each map of a convolution leaves unexplained of each other, for white inputs.

    Args:
        conv: The convolution.
        d: Kernel size of the cheap operation.

    Returns:
        Squared errors, ``(groups, maps, maps)``, and the energy of all maps.
    """
    filters = _filters_by_group(conv)
    require_finite(filters)
    errors, energies = [], []
    for own in filters:
        shifts, targets = shifted(own, sizes_of(d, own.ndim - 2), conv.dilation)
        energies.append(targets.square().sum(1))
        gram, cross = shifts @ shifts.transpose(1, 2), shifts @ targets.T
        errors.append(map_costs(gram, cross, energies[-1], CHEAP_RIDGE))
    return torch.stack(errors), float(torch.stack(energies).sum())


def _filters_by_group(conv: _ConvNd) -> Tensor:
    """The filters as they read their input, ``(groups, n / groups, c, *kernel)``."""
    filters = filters_of(conv).detach().double().cpu()
    if conv.transposed:  # a pixel is written where an ordinary filter would read it, so turned
        filters = filters.flip(tuple(range(2, filters.ndim)))
    return filters.unflatten(0, (conv.groups, -1))


def shifted(
    filters: Tensor, sizes: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, Tensor]:
    """Filters at all shifts of a cheap kernel, and themselves, in a frame that holds all of them.

    Args:
        filters: ``(n, c, *kernel)``.
        sizes: Of the cheap kernel.
        dilation: Of the filters; the frame counts in pixels of the convolution's output, which for
            a stride over 1 the shifts overlap less in (taken as stride 1 here). Of a transposed
            convolution it is its output that the taps lie in: there a stride changes nothing.

    Returns:
        ``(n, taps, frame)`` and ``(n, frame)``.
    """
    spread = _dilate(filters, dilation)
    padded = F.pad(spread, [size // 2 for size in reversed(sizes) for _ in range(2)])
    dims = tuple(range(2, padded.ndim))
    frame = [
        torch.roll(padded, tuple(a - d // 2 for a, d in zip(tap, sizes, strict=True)), dims)
        for tap in product(*map(range, sizes))
    ]
    return torch.stack([some.flatten(1) for some in frame], dim=1), padded.flatten(1)


def _dilate(filters: Tensor, dilation: tuple[int, ...]) -> Tensor:
    kernel = filters.shape[2:]
    sizes = [(size - 1) * gap + 1 for size, gap in zip(kernel, dilation, strict=True)]
    spread = filters.new_zeros((*filters.shape[:2], *sizes))
    taps = (slice(None, None, gap) for gap in (1, 1, *dilation))
    spread[tuple(taps)] = filters
    return spread


def _means(layer: GhostPair) -> Tensor:
    """Mean of each of the original's maps: what its norm remembers, else its bias, else zero."""
    if layer.norm is not None and layer.norm.running_mean is not None:
        return layer.norm.running_mean.detach().double().cpu().clone()
    if layer.conv.bias is not None:
        return layer.conv.bias.detach().double().cpu().clone()
    return torch.zeros(layer.conv.out_channels).double()
