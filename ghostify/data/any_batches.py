"""Batches of any structure, for losses and metrics of a caller's own.

What a batch is, the caller's loader or data set says; nothing in it is looked into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from ghostify.data.image_files import DataError
from ghostify.data.items import read_item
from ghostify.data.pools import Part, Pool, check_all_samples
from ghostify.data.stream import Stream, check_length
from ghostify.graph.failure import describe_error
from ghostify.numerics.chance import derive
from ghostify.numerics.random_state import keep_random_state


class AnyLoader(Pool):
    """Batches of a caller's loader as they are; what can't be split isn't: a part is a batch."""

    splits = False
    labelled = True

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        check_length(loader)
        self.count = len(loader)
        self.batch_size = getattr(loader, "batch_size", None) or 1

    def __len__(self) -> int:
        return self.count * (self.batch_size or 1)

    def in_order(
        self, size: int, samples: int | None, seed: int, rank: int = 0, ranks: int = 1
    ) -> list[Part]:
        """A part for each batch of this process's."""
        check_all_samples(samples)
        return [Part(None, place, []) for place in range(rank, self.count, ranks)]

    def batches(self, parts: Iterable[Part], key: int, augment: bool) -> Iterator[Any]:
        """A batch for each part."""
        stream = Stream(self.loader, key)
        for part in parts:
            share, shares = part.share
            yield stream.take(part.epoch, part.place * shares + share)


class AnyItems(Pool):
    """Items of a caller's data set by index, put together by its ``collate_fn`` or PyTorch's."""

    labelled = True

    def __init__(self, items: Any, workers: int) -> None:
        self.items, self.workers = items, workers
        own: Callable[[list[Any]], Any] | None = getattr(items, "collate_fn", None)
        self.collate = own or default_collate

    def __len__(self) -> int:
        return len(self.items)

    def batches(self, parts: Iterable[Part], key: int, augment: bool) -> Iterator[Any]:
        """The items of each part; what is drawn for one depends on ``(key, epoch, index)``."""

        def addresses() -> Iterator[list[tuple[int | None, int]]]:
            for part in parts:
                yield [(part.epoch, index) for index in part.indices]

        loader: DataLoader[Any] = DataLoader(
            _Seeded(self.items, key),
            batch_sampler=addresses(),
            num_workers=self.workers,
            collate_fn=self._put_together,
            generator=torch.Generator(),  # the caller's own would be drawn from else
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield batch

    def _put_together(self, items: list[Any]) -> Any:
        failed = next((item for item in items if isinstance(item, DataError)), None)
        if failed is not None:
            return failed
        try:
            return self.collate(items)
        except Exception as error:
            return DataError(
                f"Items of the data can't be put together to a batch ({describe_error(error)}): "
                "give the data set a collate_fn, or give a loader."
            )


class _Seeded(Dataset[Any]):
    def __init__(self, items: Any, key: int) -> None:
        self.items, self.key = items, key

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, address: tuple[int | None, int]) -> Any:
        epoch, index = address
        with keep_random_state(derive(self.key, -1 if epoch is None else epoch, index)):
            try:
                return read_item(self.items, index)
            except DataError as error:  # raised in a worker, it would come with its traceback
                return error
