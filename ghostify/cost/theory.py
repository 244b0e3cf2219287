"""The theoretical ratios of a C-Ghost module (Section 3.1) and a G-Ghost stage (Section 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod


def speedup_ratio(
    in_channels: int,
    kernel_size: tuple[int, ...],
    s: int,
    d: int | tuple[int, ...],
    upsampling: int = 1,
) -> float:
    """Eq. 4, exact form: MACs of the convolution over those of its ghost module.

    ``c*k*k / (c*k*k/s + (s-1)/s * d*d)``, where c is the number of input channels that one filter
    sees (``in_channels / groups``); in one dimension with k and d, in three with k*k*k and d*d*d.
    The number of filters and the image size cancel out.

    Args:
        in_channels: Input channels c that one filter sees.
        kernel_size: Size of the kernel along each dimension.
        s: The paper's s.
        d: Size of the cheap kernel; of each dimension, or one for all.
        upsampling: Pixels that a transposed convolution makes of each one that it reads: its MACs
            are counted for those that it reads, and those of the ghosts for those that are made.

    Example:
        >>> round(speedup_ratio(64, (3, 3), s=2, d=3), 4)
        1.9692
    """
    taps = prod(d) if isinstance(d, tuple) else d ** len(kernel_size)
    filter_size = in_channels * prod(kernel_size)
    return filter_size / (filter_size / s + (s - 1) / s * taps * upsampling)


def compression_ratio(
    in_channels: int, kernel_size: tuple[int, ...], s: int, d: int | tuple[int, ...]
) -> float:
    """Eq. 5, exact form: parameters of the convolution over those of its ghost module.

    Equal to `speedup_ratio`, as the paper notes: each weight is used once for each position (but
    where a transposed convolution makes more pixels than it reads).
    """
    return speedup_ratio(in_channels, kernel_size, s, d)


def approximate_ratio(in_channels: int, s: int) -> float:
    """The approximation ``s*c / (s+c-1)`` of Eq. 4 and Eq. 5, for d of about k.

    Example:
        >>> round(approximate_ratio(64, s=2), 4)
        1.9692
    """
    return s * in_channels / (s + in_channels - 1)


def stage_cost(costs: Sequence[float], ratio: float, cheap: float = 0) -> float:
    """The denominator of Eq. 13 and 14: what a G-Ghost stage should cost.

    ``f_1 + (1 - ratio) f_2 + sum_{i >= 3} (1 - ratio)^2 f_i + f^c``

    Args:
        costs: MACs (Eq. 13) or parameters (Eq. 14) of each block of the original stage.
        ratio: The ghost ratio lambda.
        cheap: MACs or parameters of the cheap operation.
    """
    thin = 1 - ratio
    first, second, rest = costs[0], costs[1:2], costs[2:]
    return first + thin * sum(second) + thin**2 * sum(rest) + cheap


def stage_ratio(costs: Sequence[float], ratio: float, cheap: float = 0) -> float:
    """Eq. 13 (of MACs) and Eq. 14 (of parameters): a stage over its G-Ghost stage.

    Example:
        >>> round(stage_ratio([2, 2, 2, 2], ratio=0.5, cheap=0.1), 2)
        1.95
    """
    return sum(costs) / stage_cost(costs, ratio, cheap)
