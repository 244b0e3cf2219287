"""Tensors of many images in a temporary file: memory does not grow with their number."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ghostify.errors import GhostifyError
from ghostify.files import reason_of


class Spool:
    """Rows of a tensor ``(N, ...)`` in a temporary file that goes when nobody needs it.

    Plain reads and writes: a mapped file would count as the process's own memory. The file has no
    name (or goes with its process): a kill leaves nothing.

    Raises:
        GhostifyError: There is no room for it.

    Example:
        >>> spool = Spool()
        >>> spool.append(torch.arange(6.).view(3, 2))
        >>> spool.take([2, 0]).tolist(), len(spool)
        ([[4.0, 5.0], [0.0, 1.0]], 3)
    """

    def __init__(self) -> None:
        with _explained():  # unbuffered: what a full disk refuses is not tried again at the end
            self._file: Any = tempfile.TemporaryFile(prefix="ghostify-", buffering=0)  # noqa: SIM115
        self._shape: tuple[int, ...] = ()
        self._dtype = torch.float32
        self._row = 0
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def append(self, batch: Tensor) -> None:
        """Add rows ``(n, ...)``; all rows have one shape and dtype."""
        batch = batch.detach().cpu().contiguous(memory_format=torch.contiguous_format)
        if not self._count:
            self._shape, self._dtype = tuple(batch.shape[1:]), batch.dtype
            self._row = batch[:1].numel() * batch.element_size()
        left = batch.flatten().view(torch.uint8).numpy().data
        with _explained():
            self._file.seek(self._count * self._row)
            while left:
                left = left[self._file.write(left) :]
        self._count += len(batch)

    def take(self, rows: list[int]) -> Tensor:
        """Some rows, in the order given."""
        return _side_by_side(torch.stack([self._read(row, 1)[0] for row in rows]))

    def batches(self, size: int) -> Iterator[Tensor]:
        """All rows, ``size`` at a time."""
        for start in range(0, self._count, size):
            yield _side_by_side(self._read(start, min(size, self._count - start)))

    def _read(self, start: int, count: int) -> Tensor:
        data = bytearray(count * self._row)
        left = memoryview(data)
        with _explained():
            self._file.seek(start * self._row)
            while left and (got := self._file.readinto(left)):
                left = left[got:]
        return torch.frombuffer(data, dtype=self._dtype).view(count, *self._shape)


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GhostifyError(
            f"Temporary files can't be kept ({reason_of(error)}): make room for them, or name "
            "another folder in the environment variable TMPDIR."
        ) from error


def _side_by_side(rows: Tensor) -> Tensor:
    """Maps with their channels side by side in memory, in which convolutions are fastest."""
    return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows
