"""Rows of least squares: places of maps drawn repeatably, and what a window sees there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from ghostify.data.spool import Spool, common_spans
from ghostify.distributed import processes

AFFORDABLE = 25_000_000_000
"""Multiply-accumulates that the sums of one fit may take: well under a second of one core."""

MOST_ROWS = 262_144

WIDEST = 8192
"""Regressors beyond which a layer is not fitted."""


@dataclass(frozen=True)
class PairedInputs:
    """Inputs of one part of the network, in the teacher and in the student.

    Attributes:
        teacher: In the original network, ``(N, c, H, W)``; of a whole network anything.
        student: In the converted network.
        batch: Images at a time.
        seed: Of the sampled places.
    """

    teacher: Spool
    student: Spool
    batch: int
    seed: int

    def batches(self) -> Iterator[tuple[Any, Any]]:
        """Inputs of the teacher and of the student, batch by batch."""
        return ((taught, learned) for _, taught, learned in self.counted())

    def counted(self) -> Iterator[tuple[int, Any, Any]]:
        """The same, with how many samples they are of."""
        for span in common_spans(self.batch, self.teacher, self.student):
            yield span[1] - span[0], self.teacher.slice(span), self.student.slice(span)

    def sampler(self, rows: int) -> MapSampler:
        """Sample about so many places of all images together."""
        return MapSampler(self.student, rows, self.seed)


class MapSampler:
    """Repeatable places in each batch's maps.

    Args:
        images: All images of this process.
        rows: Places of the images of all processes together.
        seed: Of their choice.
    """

    def __init__(self, images: Spool, rows: int, seed: int) -> None:
        self.each = max(1, rows // max(len(images) * processes()[1], 1))
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Rows and columns in the next batch's maps, of shape ``(..., H, W)``."""
        return sample_places(shape[-2], shape[-1], self.each, self.generator)


def rows_for(cost: int, least: int) -> int:
    """Rows that a fit looks at: enough for its unknowns, few enough for its time.

    Args:
        cost: Multiply-accumulates of one row.
        least: Rows that it needs.
    """
    return max(min(AFFORDABLE // max(cost, 1), MOST_ROWS), least)


@dataclass(frozen=True)
class Window:
    """A sliding window of a convolution or of the cheap operation.

    Attributes:
        kernel: Its height and width.
        stride: Its steps.
        dilation: Gaps between what it looks at.
        padding: Left, right, top, bottom.
        mode: How the padding is filled, as in `torch.nn.Conv2d`.
    """

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: str = "zeros"

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Window:
        """That of a convolution as it is now: some networks change theirs after they made them."""
        left, right, top, bottom = _sides(conv)
        kernel, stride, dilation = map(_pair, (conv.kernel_size, conv.stride, conv.dilation))
        return cls(kernel, stride, dilation, (left, right, top, bottom), conv.padding_mode)

    @classmethod
    def same(cls, d: int) -> Window:
        """That of a d x d cheap operation."""
        return cls((d, d), padding=(d // 2,) * 4)

    def patches(self, x: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Cut out the inputs of some places of its output.

        Args:
            x: ``(N, C, H, W)``.
            rows: Row of each place in the output, ``(P,)``.
            columns: Column of each, ``(P,)``.

        Returns:
            ``(C, N * P, kernel)``; the channels lie side by side in memory.
        """
        mode = "constant" if self.mode == "zeros" else self.mode
        x = F.pad(x, self.padding, mode=mode) if any(self.padding) else x
        height, width = (torch.arange(k) for k in self.kernel)
        row = rows[:, None, None] * self.stride[0] + height[:, None] * self.dilation[0]
        column = columns[:, None, None] * self.stride[1] + width * self.dilation[1]
        # Pixels are picked as whole rows of channels: one by one they would be far apart in memory.
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)
        picked = pixels.index_select(1, (row * x.shape[3] + column).flatten().to(x.device))
        taps = self.kernel[0] * self.kernel[1]
        return picked.view(-1, taps, x.shape[1]).permute(2, 0, 1)

    def regressors(self, x: Tensor, places: tuple[Tensor, Tensor], groups: int = 1) -> Tensor:
        """The patches as rows in the order of a filter's weights, ``(groups, N * P, inputs)``."""
        patches = self.patches(x.float(), *places)
        return patches.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)


def _sides(conv: nn.Conv2d) -> list[int]:
    """What a convolution's forward pads with: left, right, top, bottom."""
    if conv.padding_mode != "zeros":  # it pads by what was worked out when it was made
        return list(conv._reversed_padding_repeated_twice)
    padding = conv.padding
    if padding == "valid":
        return [0, 0, 0, 0]
    if isinstance(padding, str):
        sizes = zip(_pair(conv.dilation), _pair(conv.kernel_size), strict=True)
        reach = [d * (k - 1) for d, k in sizes]
        return [side for total in reversed(reach) for side in (total // 2, total - total // 2)]
    return [side for each in reversed(_pair(padding)) for side in (each, each)]


def sample_places(
    height: int, width: int, most: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows and columns of at most ``most`` places of a map, drawn without repetition."""
    if height * width <= most:
        chosen = torch.arange(height * width)
    else:
        chosen = torch.randperm(height * width, generator=generator)[:most]
    return chosen // width, chosen % width


def by_group(picked: Tensor, groups: int) -> Tensor:
    """Rows of each group: ``(N, P, C)`` as ``(groups, N * P, C / groups)``."""
    return picked.flatten(0, 1).unflatten(1, (groups, -1)).transpose(0, 1)


def pick(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Values at some places, ``(N, P, C)``."""
    values = Window((1, 1)).patches(maps, rows, columns)[..., 0].T
    return values.unflatten(0, (len(maps), -1))
