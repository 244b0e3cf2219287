"""The warm start without data: pairs and cheap kernels from the weights, means from the norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.filters import filters_of
from ghostify.nn.ghost import KernelSize, sizes_of
from ghostify.warmstart.c_ghost.layers import GhostPair
from ghostify.warmstart.c_ghost.pairing import pair
from ghostify.warmstart.c_ghost.trial import CHEAP_RIDGE
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
    ghost, groups = layer.ghost, layer.groups
    cheap = ghost.cheap
    assert cheap is not None
    m, copies = layer.intrinsic, layer.copies
    filters, dilation = _filters_by_group(layer.teacher)
    means = _means(layer).view(groups, -1)
    require_finite(filters, means)
    pairings, kernels, offsets = [], [], []
    left, total = 0.0, torch.zeros(()).double()
    for g in range(groups):
        white = WhiteMoments.of(filters[g], layer.sizes, dilation)
        costs = map_costs(white.gram, white.cross, white.energy, CHEAP_RIDGE)
        pairing = pair(costs, m, copies)
        own = pairing.intrinsic
        kernel = ghost_kernels(white.gram, white.cross, own, pairing.ghosts, CHEAP_RIDGE)
        left, total = left + pairing.cost, total + white.energy.sum()
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
    filters, dilation = _filters_by_group(conv)
    require_finite(filters)
    errors, energies = [], []
    for own in filters:
        white = WhiteMoments.of(own, sizes_of(d, own.ndim - 2), dilation)
        energies.append(white.energy)
        errors.append(map_costs(white.gram, white.cross, white.energy, CHEAP_RIDGE))
    return torch.stack(errors), float(torch.stack(energies).sum())


def _filters_by_group(layer: _ConvNd | nn.Linear) -> tuple[Tensor, tuple[int, ...]]:
    """The filters as they read their input, ``(groups, n / groups, c, *kernel)``; their dilation.

    A linear layer is a convolution of one tap, in one dimension.
    """
    filters = filters_of(layer).detach().double().cpu()
    if isinstance(layer, nn.Linear):
        return filters[None, ..., None], (1,)
    if layer.transposed:  # a pixel is written where an ordinary filter would read it, so turned
        filters = filters.flip(tuple(range(2, filters.ndim)))
    return filters.unflatten(0, (layer.groups, -1)), layer.dilation


@dataclass(frozen=True)
class WhiteMoments:
    """Second moments of the maps that filters make of white noise, and of those maps' shifts.

    Attributes:
        gram: Products of each map's shifts, ``(n, taps, taps)``.
        cross: Products of each map's shifts with all maps, ``(n, taps, n)``.
        energy: Of each map, ``(n,)``.
    """

    gram: Tensor
    cross: Tensor
    energy: Tensor

    @classmethod
    def of(cls, filters: Tensor, sizes: tuple[int, ...], dilation: tuple[int, ...]) -> WhiteMoments:
        """The moments of some filters under all shifts of a cheap kernel.

        The product of two maps is that of their filters where these overlap: of a 1 x 1 convolution
        no shift overlaps.

        Args:
            filters: ``(n, c, *kernel)``.
            sizes: Of the cheap kernel.
            dilation: Of the filters; shifts are in pixels of the convolution's output, which for a
                stride over 1 the filters overlap less in (taken as stride 1 here). Of a transposed
                convolution it is its output that the taps lie in: there a stride changes nothing.
        """
        spread = _dilate(filters, dilation)
        taps = [*product(*(range(-(size // 2), size - size // 2) for size in sizes))]
        cross = torch.stack([_products(spread, shift) for shift in taps], dim=1)
        gram = _products_of_shifts(spread, taps)
        return cls(gram, cross, filters.flatten(1).square().sum(1))


def _products(filters: Tensor, shift: tuple[int, ...]) -> Tensor:
    """Products of shifted filters with all filters, ``(n, n)``."""
    shifted, whole = _overlap(filters, shift)
    return shifted.flatten(1) @ whole.flatten(1).T


def _products_of_shifts(filters: Tensor, taps: Sequence[tuple[int, ...]]) -> Tensor:
    """Products of each filter's shifts with each other, ``(n, taps, taps)``."""
    found: dict[tuple[int, ...], Tensor] = {}
    gram = filters.new_empty(len(filters), len(taps), len(taps))
    for (i, one), (j, other) in combinations_with_replacement([*enumerate(taps)], 2):
        apart = tuple(b - a for a, b in zip(one, other, strict=True))
        if apart not in found:
            found[apart] = _products_with_itself(filters, apart)
        gram[:, i, j] = gram[:, j, i] = found[apart]
    return gram


def _products_with_itself(filters: Tensor, shift: tuple[int, ...]) -> Tensor:
    """Product of each filter, shifted, with itself, ``(n,)``."""
    shifted, whole = _overlap(filters, shift)
    return (shifted * whole).flatten(1).sum(1)


def _overlap(filters: Tensor, shift: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """What of shifted filters, and of the filters themselves, lies on the other."""
    sizes = filters.shape[2:]
    before = [slice(max(0, -by), max(0, size - by)) for by, size in zip(shift, sizes, strict=True)]
    after = [slice(max(0, by), max(0, size + by)) for by, size in zip(shift, sizes, strict=True)]
    every = slice(None)
    return filters[(every, every, *before)], filters[(every, every, *after)]


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
    if layer.teacher.bias is not None:
        return layer.teacher.bias.detach().double().cpu().clone()
    return torch.zeros(layer.outputs).double()
