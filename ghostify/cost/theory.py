"""The paper's theoretical ratios of one C-Ghost module (Section 3.1)."""

from __future__ import annotations


def speedup_ratio(in_channels: int, kernel_size: tuple[int, int], s: int, d: int) -> float:
    """Eq. 4, exact form: MACs of the convolution over those of its ghost module.

    ``c*k*k / (c*k*k/s + (s-1)/s * d*d)``, where c is the number of input channels that one filter
    sees (``in_channels / groups``). The number of filters and the image size cancel out.

    Example:
        >>> round(speedup_ratio(64, (3, 3), s=2, d=3), 4)
        1.9692
    """
    filter_size = in_channels * kernel_size[0] * kernel_size[1]
    return filter_size / (filter_size / s + (s - 1) / s * d * d)


def compression_ratio(in_channels: int, kernel_size: tuple[int, int], s: int, d: int) -> float:
    """Eq. 5, exact form: parameters of the convolution over those of its ghost module.

    Equal to `speedup_ratio`, as the paper notes: each weight is used once for each position.
    """
    return speedup_ratio(in_channels, kernel_size, s, d)


def approximate_ratio(in_channels: int, s: int) -> float:
    """The approximation ``s*c / (s+c-1)`` of Eq. 4 and Eq. 5, for d of about k.

    Example:
        >>> round(approximate_ratio(64, s=2), 4)
        1.9692
    """
    return s * in_channels / (s + in_channels - 1)
