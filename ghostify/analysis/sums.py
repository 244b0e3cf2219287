"""What is summed up while feature maps pass by: enough for correlations and least-squares fits.

Nothing here keeps a map. All sums are in double precision, and a fit is solved from its normal
equations, so that any number of images costs the memory of one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Patches of one chunk of source maps; bounds the memory of a fit, whatever the maps' size.
CHUNK_BYTES = 64 * 2**20


class Moments:
    """Means, variances and correlations of a layer's channels, over images and positions.

    Args:
        channels: Channels of the maps.
    """

    def __init__(self, channels: int) -> None:
        self.count = 0
        self._shift: Tensor | None = None
        self._sum = torch.zeros(channels, dtype=torch.float64)
        self._products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        """Take in maps ``(N, C, H, W)``."""
        columns = _columns(maps)
        if self._shift is None:  # sums around a value near the mean lose no digits
            self._shift = columns.mean(1, keepdim=True)
        columns = columns - self._shift
        self.count += columns.shape[1]
        self._sum += columns.sum(1)
        self._products += columns @ columns.T

    @property
    def covariance(self) -> Tensor:
        """``(C, C)``."""
        mean = self._sum / max(self.count, 1)
        return self._products / max(self.count, 1) - torch.outer(mean, mean)

    @property
    def variance(self) -> Tensor:
        """``(C,)``; 0 for channels that do not vary beyond rounding."""
        variance = self.covariance.diagonal().clamp_min(0)
        shift = torch.zeros_like(variance) if self._shift is None else self._shift.flatten()
        floor = 1e-12 * (variance.max() + shift.square())
        return torch.where(variance > floor, variance, 0)

    @property
    def correlation(self) -> Tensor:
        """``(C, C)``, between -1 and 1; 0 where a channel does not vary."""
        scale = _inverse_root(self.variance)
        return (self.covariance * torch.outer(scale, scale)).clamp(-1, 1)


class KernelFits:
    """Least-squares fits of d x d kernels, with a bias, that turn one channel into another.

    The kernel slides as the cheap operation does: stride 1, zeros around the map. The equations of
    the largest d hold those of the smaller ones.

    Args:
        pairs: Channels ``(source, target)``.
        d: Kernel sizes, odd.
    """

    def __init__(self, pairs: Sequence[tuple[int, int]], d: Sequence[int]) -> None:
        self.pairs, self.d = list(pairs), tuple(d)
        self.count = 0
        self._sources = sorted({source for source, _ in pairs})
        row = {source: index for index, source in enumerate(self._sources)}
        self._rows = torch.tensor([row[source] for source, _ in pairs], dtype=torch.long)
        self._targets = torch.tensor([target for _, target in pairs], dtype=torch.long)
        self._size = max(self.d) ** 2 + 1
        shape = (len(self._sources), self._size, self._size)
        self._gram = torch.zeros(shape, dtype=torch.float64)
        self._cross = torch.zeros(len(self.pairs), self._size, dtype=torch.float64)
        self._squares = torch.zeros(len(self.pairs), dtype=torch.float64)
        self._sum = torch.zeros(len(self.pairs), dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        """Take in maps ``(N, C, H, W)``."""
        for single in maps.detach().double().split(1):
            positions = single.shape[-2] * single.shape[-1]
            self.count += positions
            targets = single[0].flatten(1)[self._targets]
            self._squares += targets.square().sum(1)
            self._sum += targets.sum(1)
            step = max(1, CHUNK_BYTES // (8 * self._size * positions))
            for start in range(0, len(self._sources), step):
                self._add_chunk(single[0], targets, start, start + step)

    def _add_chunk(self, maps: Tensor, targets: Tensor, start: int, stop: int) -> None:
        side = max(self.d)
        sources = maps[self._sources[start:stop]].unsqueeze(1)
        patches = F.unfold(sources, side, padding=side // 2)  # (sources, side^2, positions)
        patches = torch.cat([patches, torch.ones_like(patches[:, :1])], 1)
        self._gram[start:stop] += patches @ patches.mT
        here = ((self._rows >= start) & (self._rows < stop)).nonzero().flatten()
        if len(here):
            chosen = patches[self._rows[here] - start]
            self._cross[here] += (chosen @ targets[here].unsqueeze(2)).squeeze(2)

    def errors(self) -> Tensor:
        """Mean squared error of each pair (rows) for each d (columns)."""
        count = max(self.count, 1)
        return torch.stack([self._errors(d) / count for d in self.d], 1)

    def variances(self) -> Tensor:
        """Variance of each pair's target."""
        count = max(self.count, 1)
        return (self._squares / count - (self._sum / count).square()).clamp_min(0)

    def _errors(self, d: int) -> Tensor:
        kept = _centre(max(self.d), d)
        inverse = _inverse(self._gram[:, kept][:, :, kept])
        cross = self._cross[:, kept]
        explained = torch.einsum("pi,pij,pj->p", cross, inverse[self._rows], cross)
        return (self._squares - explained).clamp_min(0)


class CrossMoments:
    """How well a layer's channels follow from all channels of an earlier layer, by a 1 x 1 kernel.

    Args:
        channels: Channels of the earlier layer.
        targets: Channels of the later one.
    """

    def __init__(self, channels: int, targets: int) -> None:
        self._split = channels
        self._both = Moments(channels + targets)

    def add(self, earlier: Tensor, later: Tensor) -> None:
        """Take in maps ``(N, C, H, W)`` and ``(N, C', H, W)`` of the same images."""
        self._both.add(torch.cat([earlier.double(), later.double()], 1))

    @property
    def count(self) -> int:
        """Positions seen."""
        return self._both.count

    @property
    def correlation(self) -> Tensor:
        """``(C, C')``."""
        return self._both.correlation[: self._split, self._split :]

    def r2(self) -> Tensor | None:
        """Share of each later channel's variance that a 1 x 1 convolution of the earlier explains.

        Adjusted for the number of weights that were fitted; None where there are fewer than two
        positions for each of them. A channel that does not vary is explained in full.
        """
        p = self._split
        if self.count < 2 * (p + 1):
            return None
        covariance, variance = self._both.covariance, self._both.variance[p:]
        cross = covariance[:p, p:]
        explained = (cross * (_inverse(covariance[:p, :p]) @ cross)).sum(0)
        left = (1 - explained / variance.clamp_min(1e-300)).clamp(0, 1)
        adjusted = 1 - left * (self.count - 1) / (self.count - p - 1)
        return torch.where(variance > 0, adjusted.clamp(0, 1), 1.0)


def _columns(maps: Tensor) -> Tensor:
    """``(N, C, H, W)`` as ``(C, N * H * W)`` in double precision."""
    return maps.detach().double().transpose(0, 1).flatten(1)


def _centre(largest: int, d: int) -> Tensor:
    """Indices of the d x d centre, and of the bias, among those of the largest kernel."""
    grid = torch.arange(largest * largest).view(largest, largest)
    low = (largest - d) // 2
    inner = grid[low : low + d, low : low + d].flatten()
    return torch.cat([inner, torch.tensor([largest * largest])])


def _inverse(gram: Tensor) -> Tensor:
    """Inverses of Gram matrices ``(*, p, p)``; pseudo-inverses of singular ones (dead channels)."""
    scale = _inverse_root(gram.diagonal(dim1=-2, dim2=-1))
    outer = scale.unsqueeze(-1) * scale.unsqueeze(-2)
    return torch.linalg.pinv(gram * outer, rtol=1e-12, hermitian=True) * outer


def _inverse_root(values: Tensor) -> Tensor:
    return torch.where(values > 0, values.clamp_min(1e-300).rsqrt(), 0.0)
