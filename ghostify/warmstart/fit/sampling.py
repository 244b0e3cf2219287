"""Rows of least squares: places of maps drawn repeatably, and what a window sees there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd

from ghostify.data.spool import Span, Spool, common_spans
from ghostify.distributed import processes
from ghostify.warmstart.fit.held_out import RidgeChoices, split_spans

AFFORDABLE = 25_000_000_000
"""Multiply-accumulates that the sums of one fit may take: well under a second of one core."""

MOST_ROWS = 65_536
"""Rows beyond which a fit gains nothing that was seen."""

WIDEST = 8192
"""Regressors beyond which a layer is not fitted."""

APART = 4
"""Of so many places of a map one is looked at, as long as there are images enough."""

FEWEST = 64
"""Images that are looked at in any case."""

Places = tuple[Tensor, ...]
"""Places in maps: along each dimension an index for each, ``(P,)``."""


@dataclass(frozen=True)
class PairedInputs:
    """Inputs of one part of the network, in the teacher and in the student.

    Attributes:
        teacher: In the original network, ``(N, c, H, W)``; of a whole network anything.
        student: In the converted network.
        batch: Images at a time.
        seed: Of the sampled places.
        held_out: How many samples, the last ones, are not fitted to.
        ridges: Chosen on these.
    """

    teacher: Spool
    student: Spool
    batch: int
    seed: int
    held_out: int = 0
    ridges: RidgeChoices = field(default_factory=RidgeChoices)

    def batches(self, held_out: bool = False) -> Iterator[tuple[Any, Any]]:
        """Inputs of the teacher and of the student, batch by batch: those to fit, or the others."""
        return ((taught, learned) for _, taught, learned in self.counted(held_out))

    def counted(self, held_out: bool = False) -> Iterator[tuple[int, Any, Any]]:
        """The same, with how many samples they are of."""
        for span in self.spans(held_out):
            yield span[1] - span[0], self.teacher.slice(span), self.student.slice(span)

    def spans(self, held_out: bool = False) -> list[Span]:
        """The samples of each batch."""
        spans = common_spans(self.batch, self.teacher, self.student)
        return split_spans(spans, len(self.student) - self.held_out, self.is_even)[held_out]

    @property
    def is_even(self) -> bool:
        """Whether samples can be taken one by one."""
        return self.teacher.is_even and self.student.is_even

    def sampler(self, rows: int) -> MapSampler:
        """Sample about so many places of all images that are fitted to together."""
        return MapSampler(len(self.student) - self.held_out, rows, self.seed)


class MapSampler:
    """Repeatable places in each batch's maps; of large maps, if asked, in some of them.

    Args:
        images: How many images this process has.
        rows: Places of the images of all processes together.
        seed: Of their choice.
    """

    def __init__(self, images: int, rows: int, seed: int) -> None:
        self.images, self.rows = max(images * processes()[1], 1), rows
        self.generator = torch.Generator().manual_seed(seed)

    def sample(self, shape: Sequence[int]) -> Places:
        """Places in the next batch's maps, of shape ``(N, C, ...)``."""
        return sample_places(shape[2:], max(1, self.rows // self.images), self.generator)

    def some(self, shape: Sequence[int]) -> tuple[int, Places]:
        """How many of the next batch's images, the first ones, are enough; places in these.

        Neighbouring places say much the same, so of each map a part is looked at.
        """
        most = max(prod(shape[2:]) // APART, 1)
        images = min(max(self.rows // most, FEWEST), self.images)
        count = -(-shape[0] * images // self.images)
        return count, sample_places(shape[2:], max(1, self.rows // images), self.generator)


def rows_for(cost: int, least: int) -> int:
    """Rows that a fit looks at: enough for its unknowns, few enough for its time.

    Args:
        cost: Multiply-accumulates of one row.
        least: Rows that it needs.
    """
    return max(min(AFFORDABLE // max(cost, 1), MOST_ROWS), least)


@dataclass(frozen=True)
class Window:
    """A sliding window of a convolution or of the cheap operation, on maps of any dimensions.

    Attributes:
        kernel: Its size along each dimension.
        stride: Its steps; of a transposed convolution those of its output.
        dilation: Gaps between what it looks at.
        padding: Before and after, the last dimension first, as `torch.nn.functional.pad` takes it;
            of a transposed convolution what its output lacks.
        mode: How the padding is filled, as in `torch.nn.Conv2d`.
        transposed: Whether it is that of a transposed convolution.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    mode: str = "zeros"
    transposed: bool = False

    @classmethod
    def of(cls, conv: _ConvNd) -> Window:
        """That of a convolution as it is now: some networks change theirs after they made them."""
        dimensions = conv.weight.dim() - 2
        return cls(
            _each(conv.kernel_size, dimensions),
            _each(conv.stride, dimensions),
            _each(conv.dilation, dimensions),
            _padding(conv, dimensions),
            conv.padding_mode,
            conv.transposed,
        )

    @classmethod
    def same(cls, sizes: tuple[int, ...]) -> Window:
        """That of a cheap operation with a kernel of so many taps along each dimension."""
        around = tuple(size // 2 for size in reversed(sizes) for _ in range(2))
        return cls(sizes, (1,) * len(sizes), (1,) * len(sizes), around)

    def patches(self, x: Tensor, *places: Tensor) -> Tensor:
        """Cut out the inputs of some places of its output.

        Args:
            x: ``(N, C, ...)``.
            places: Where each place is in the output, along each dimension, ``(P,)``.

        Returns:
            ``(C, N * P, kernel)``; the channels lie side by side in memory.
        """
        x = x if self.transposed else self._padded(x)
        index, inside = torch.zeros(len(places[0]), dtype=torch.long), None
        for dim, (place, size) in enumerate(zip(places, x.shape[2:], strict=True)):
            pixels, exist = self._pixels(dim, place, size)
            shape = (len(place), *[1] * dim, -1)
            index = index.unsqueeze(-1) * size + pixels.view(shape)
            if exist is not None:
                inside = exist if inside is None else inside.unsqueeze(-1) & exist.view(shape)
        # Pixels are picked as whole rows of channels: one by one they would be far apart in memory.
        rows = x.movedim(1, -1).flatten(1, -2)
        picked = rows.index_select(1, index.flatten().to(x.device))
        if inside is not None:
            picked = picked * inside.flatten()[:, None].to(picked)
        return picked.view(-1, prod(self.kernel), x.shape[1]).permute(2, 0, 1)

    def _padded(self, x: Tensor) -> Tensor:
        mode = "constant" if self.mode == "zeros" else self.mode
        return F.pad(x, self.padding, mode=mode) if any(self.padding) else x

    def _pixels(self, dim: int, place: Tensor, size: int) -> tuple[Tensor, Tensor | None]:
        """Pixels that each tap sees along a dimension, ``(P, taps)``, and which of them exist."""
        taps = torch.arange(self.kernel[dim]) * self.dilation[dim]
        if not self.transposed:
            return place[:, None] * self.stride[dim] + taps, None
        # Pixel i reaches the places stride * i + tap - padding.
        reached = place[:, None] + self.padding[-2 - 2 * dim] - taps
        pixels = reached.div(self.stride[dim], rounding_mode="floor")
        exist = (reached % self.stride[dim] == 0) & (pixels >= 0) & (pixels < size)
        return pixels.clamp(0, size - 1), exist

    def regressors(self, x: Tensor, places: Places, groups: int = 1) -> Tensor:
        """The patches as rows in the order of a filter's weights, ``(groups, N * P, inputs)``."""
        patches = self.patches(x.float(), *places)
        return patches.unflatten(0, (groups, -1)).transpose(1, 2).flatten(2)


def _each(sizes: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """One number for each dimension; a single one holds for all."""
    numbers = (sizes,) if isinstance(sizes, int) else tuple(int(size) for size in sizes)
    return numbers * dimensions if len(numbers) == 1 else numbers


def _padding(conv: _ConvNd, dimensions: int) -> tuple[int, ...]:
    """What a convolution's forward pads with.

    Returns:
        Before and after each dimension, the last one first.
    """
    if conv.padding_mode != "zeros":
        # It pads by what was worked out when it was made.
        return tuple(int(size) for size in conv._reversed_padding_repeated_twice)
    padding: Any = conv.padding
    if padding == "valid":
        return (0,) * (2 * dimensions)
    if padding == "same":
        sizes = (_each(own, dimensions) for own in (conv.dilation, conv.kernel_size))
        gaps = zip(*sizes, strict=True)
        both = [gap * (size - 1) for gap, size in gaps]
        return tuple(part for whole in reversed(both) for part in (whole // 2, whole - whole // 2))
    return tuple(int(size) for size in reversed(_each(padding, dimensions)) for _ in range(2))


def sample_places(sizes: Sequence[int], most: int, generator: torch.Generator) -> Places:
    """At most ``most`` places of a map of some sizes, drawn without repetition."""
    count = prod(sizes)
    if count <= most:
        chosen = torch.arange(count)
    else:
        chosen = torch.randperm(count, generator=generator)[:most]
    return torch.unravel_index(chosen, tuple(sizes))


def by_group(picked: Tensor, groups: int) -> Tensor:
    """Rows of each group: ``(N, P, C)`` as ``(groups, N * P, C / groups)``."""
    return picked.flatten(0, 1).unflatten(1, (groups, -1)).transpose(0, 1)


def pick(maps: Tensor, *places: Tensor) -> Tensor:
    """Values at some places, ``(N, P, C)``."""
    values = Window.same((1,) * len(places)).patches(maps, *places)[..., 0].T
    return values.unflatten(0, (len(maps), -1))


def pick_like(values: Tensor, shape: Sequence[int], places: Places) -> Tensor:
    """Values at some places ``(N, P, C)`` of maps of a shape that they are spread over."""
    return pick(values.broadcast_to(tuple(shape)), *places)
