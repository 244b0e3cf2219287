"""From correlations to pairs of alike channels, and to the best intrinsic channels of a layer."""

from __future__ import annotations

import heapq

from torch import Tensor

from ghostify.numerics.ranking import NOISE, exceeds, first_largest


def alike_pairs(correlation: Tensor, count: int) -> list[tuple[int, int]]:
    """The most alike pairs of channels, no channel in two of them (Figure 1).

    Args:
        correlation: ``(C, C)``, or ``(C, C')`` between two layers.
        count: How many pairs at most; those that do not correlate at all are left out.

    Example:
        >>> import torch
        >>> alike_pairs(torch.tensor([[1, 0.1, 0.9], [0.1, 1, 0.3], [0.9, 0.3, 1]]), 2)
        [(0, 2)]
    """
    score = correlation.abs().clone()
    within = score.shape[0] == score.shape[1] and score.allclose(score.T, NOISE, NOISE)
    # A correlation of two maps that have none is all rounding.
    score[score <= NOISE] = 0
    if within:
        score = score.triu(1)
    pairs: list[tuple[int, int]] = []
    while len(pairs) < count and score.numel() and score.max() > 0:
        source, target = divmod(int(first_largest(score.flatten())), score.shape[1])
        pairs.append((source, target))
        used = (source, target) if within else (source,)
        score[list(used), :] = 0
        score[:, [source, target] if within else [target]] = 0
    return pairs


def intrinsic_order(correlation: Tensor, count: int) -> list[int]:
    """The channels from which the others follow best, the most telling first.

    Each time the channel is taken that adds most to the sum, over all channels, of the largest
    squared correlation with one that was taken; any first m of them reach at least 63 % of the best
    sum of m channels.

    Args:
        correlation: ``(C, C)``.
        count: How many channels.

    Example:
        >>> import torch
        >>> intrinsic_order(torch.tensor([[1, 0.9, 0], [0.9, 1, 0.3], [0, 0.3, 1]]), 2)
        [1, 2]
    """
    # Of a channel that does not vary nothing is left to explain: its diagonal is 0, and stays so.
    squared = correlation.square()
    covered = squared.new_zeros(len(squared))
    # A channel's gain only falls while others are taken: an old gain is a bound, so that most
    # channels need not be looked at again.
    heap = [(-gain, channel) for channel, gain in enumerate(squared.sum(1).tolist())]
    heapq.heapify(heap)
    taken: list[int] = []
    while len(taken) < count:
        gains: dict[int, float] = {}
        # All whose gain may be the largest, but for noise.
        while heap and not (gains and exceeds(max(gains.values()), -heap[0][0])):
            channel = heapq.heappop(heap)[1]
            gains[channel] = float((squared[channel] - covered).clamp_min(0).sum())
        largest = max(gains.values())
        best = min(channel for channel, gain in gains.items() if not exceeds(largest, gain))
        taken.append(best)
        covered = covered.maximum(squared[best])
        for channel, gain in gains.items():
            if channel != best:
                heapq.heappush(heap, (-gain, channel))
    return taken


def sources_of(correlation: Tensor, intrinsic: list[int]) -> dict[int, int]:
    """For each channel that is not intrinsic, the intrinsic one that it correlates most with."""
    nearest = first_largest(correlation[intrinsic].abs()).tolist()
    chosen = set(intrinsic)
    others = (channel for channel in range(len(correlation)) if channel not in chosen)
    return {channel: intrinsic[nearest[channel]] for channel in others}
