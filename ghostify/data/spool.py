"""Values of many samples in a temporary file: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from ghostify.data.scratch import Bytes
from ghostify.numerics.nested import Frame, open_nested

Span = tuple[int, int]
"""The first of some samples, and the one after the last."""


@dataclass(frozen=True, eq=False)
class _Record:
    """Values that were appended together.

    Attributes:
        span: The samples that they are of.
        offset: Where they begin among the bytes of all.
        shapes: Of each tensor: of one sample's part of it, or whole.
        dtypes: Of each tensor.
        frame: What they are nested in; None for a tensor alone.
        whole: Whether the tensors can't be told apart by sample.
    """

    span: Span
    offset: int
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[torch.dtype, ...]
    frame: Frame | None
    whole: bool

    @property
    def rows(self) -> int:
        """In how many parts it can be read."""
        return 1 if self.whole else self.span[1] - self.span[0]

    @property
    def sizes(self) -> list[int]:
        """Bytes of each tensor in a row."""
        pairs = zip(self.shapes, self.dtypes, strict=True)
        return [prod(shape) * dtype.itemsize for shape, dtype in pairs]

    def goes_on(self, other: _Record) -> bool:
        """Whether the rows of another are like its own."""
        if self.whole or other.whole or self.shapes != other.shapes or self.dtypes != other.dtypes:
            return False
        if self.frame is None or other.frame is None:
            return self.frame is other.frame
        return self.frame.is_like(other.frame)


class Spool:
    """Values of samples, ``(N, ...)`` each, in a part of a temporary file; others get it after.

    Tensors, or anything that they are nested in. As long as all samples are alike they can be taken
    one by one; else they come as they were appended, as lists of images of different sizes do.

    Raises:
        GhostifyError: There is no room for them.

    Example:
        >>> spool = Spool()
        >>> spool.append(torch.arange(6.).view(3, 2))
        >>> spool.take([2, 0]).tolist(), len(spool)
        ([[4.0, 5.0], [0.0, 1.0]], 3)
    """

    def __init__(self) -> None:
        self._bytes = Bytes()
        self._first: _Record | None = None
        self._records: dict[Span, _Record] = {}
        self._count = 0
        self.is_even = True
        """Whether all samples are alike, and can be taken one by one."""

    def __len__(self) -> int:
        return self._count

    def append(self, batch: Any, count: int | None = None, whole: bool = False) -> None:
        """Add values of some samples.

        Args:
            batch: A tensor ``(n, ...)``, or anything that tensors are nested in.
            count: Of the samples; the first dimension of the first tensor if not given.
            whole: Whether the tensors have no dimension for the samples.
        """
        tensors, frame = ([batch], None) if isinstance(batch, Tensor) else open_nested(batch)
        tensors = [_plain(tensor) for tensor in tensors]
        if count is None:
            count = len(tensors[0]) if tensors and tensors[0].ndim else 1
        whole = whole or not tensors or any(t.ndim == 0 or len(t) != count for t in tensors)
        shapes = tuple(tuple(t.shape) if whole else tuple(t.shape[1:]) for t in tensors)
        span = self._count, self._count + count
        dtypes = tuple(tensor.dtype for tensor in tensors)
        record = _Record(span, len(self._bytes), shapes, dtypes, frame, whole)
        self._first = self._first or record
        self.is_even = self.is_even and self._first.goes_on(record)
        self._records[span] = record
        self._bytes.append(_bytes_of(tensors, record.rows).numpy().data)
        self._count += count

    def take(self, rows: Sequence[int]) -> Any:
        """Some samples, in the order given; where they are not alike, the first one's record."""
        if not self.is_even:
            return self.slice(next(span for span in self._records if span[1] > rows[0]))
        assert self._first is not None
        parts = [self._read(self._first, row, 1) for row in rows]
        return _nested(self._first, [torch.cat(some) for some in zip(*parts, strict=True)])

    def examples(self) -> list[Any]:
        """One sample and two, where all are alike; else nothing."""
        return [self.take([0] * count) for count in (1, 2)] if self.is_even and len(self) else []

    def batches(self, size: int) -> Iterator[Any]:
        """All samples, ``size`` at a time; where they are not alike, as they were appended."""
        return (self.slice(span) for span in self.spans(size))

    def spans(self, size: int) -> list[Span]:
        """The samples of each batch."""
        if not self.is_even:
            return list(self._records)
        starts = range(0, self._count, size)
        return [(start, min(start + size, self._count)) for start in starts]

    def slice(self, span: Span) -> Any:
        """The samples of a batch."""
        if self.is_even:
            assert self._first is not None
            return _nested(self._first, self._read(self._first, span[0], span[1] - span[0]))
        record = self._records[span]
        read = self._read(record, 0, record.rows)
        return _nested(record, [tensor[0] for tensor in read] if record.whole else read)

    def part(self, rows: range) -> Spool:
        """Some samples as a spool of their own; where they are not alike, their records."""
        part = Spool()
        for start, end in self.spans(1):
            wanted = start in rows if self.is_even else any(r in rows for r in range(start, end))
            if wanted:
                whole = not self.is_even
                part.append(self.slice((start, end)), end - start, whole)
        return part

    def _read(self, record: _Record, start: int, count: int) -> list[Tensor]:
        """Rows of each tensor of a record, and of those that go on where it ends."""
        row = sum(record.sizes)
        data = torch.empty(count * row, dtype=torch.uint8)
        self._bytes.read(record.offset + start * row, data.numpy().data)
        if not row:
            pairs = zip(record.shapes, record.dtypes, strict=True)
            return [torch.empty(count, *shape, dtype=dtype) for shape, dtype in pairs]
        if len(record.shapes) == 1:
            flat = [data.view(record.dtypes[0])]
        else:
            columns = data.view(count, row).split(record.sizes, dim=1)
            parts = zip(columns, record.dtypes, strict=True)
            flat = [column.flatten().clone().view(dtype) for column, dtype in parts]
        return [x.view(count, *shape) for x, shape in zip(flat, record.shapes, strict=True)]


def common_spans(size: int, *spools: Spool) -> list[Span]:
    """The batches that all of some spools have."""
    return next((s for s in spools if not s.is_even), spools[0]).spans(size)


def _plain(tensor: Tensor) -> Tensor:
    """As it is stored: of maps the channels side by side, as convolutions are fastest."""
    tensor = tensor.detach().cpu()
    return (tensor.movedim(1, -1) if tensor.ndim == 4 else tensor).contiguous()


def _bytes_of(tensors: Sequence[Tensor], rows: int) -> Tensor:
    """Tensors side by side, row by row."""
    flat = [tensor.flatten().view(torch.uint8) for tensor in tensors]
    if len(flat) == 1:
        return flat[0]
    parts = [x.view(rows, x.numel() // max(rows, 1)) for x in flat]
    return torch.cat(parts, 1).flatten() if flat else torch.empty(0, dtype=torch.uint8)


def _nested(record: _Record, tensors: Sequence[Tensor]) -> Any:
    tensors = [x.movedim(-1, 1) if x.ndim == 4 else x for x in tensors]
    return tensors[0] if record.frame is None else record.frame.fill(tensors)
