"""Training and test images from a folder, tensors, a data set or a loader, as batches."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ghostify.data.augmentation import TRIES, crop_at_random, shift_and_mirror
from ghostify.data.image_files import DataError, open_image
from ghostify.data.items import describe_item, read_item, split_item
from ghostify.data.preparation import Preparation
from ghostify.data.stream import Stream, check_length
from ghostify.numerics.chance import derive, draws, permutation
from ghostify.numerics.finite import check_pixels
from ghostify.numerics.random_state import keep_random_state

IN_MEMORY = 2**30
"""Bytes up to which decoded images are kept."""

Batch = tuple[Tensor, Tensor | None]
"""Images ``(N, C, H, W)`` and their labels ``(N,)``, where there are any."""


@dataclass(frozen=True)
class Part:
    """The images of one forward pass.

    Attributes:
        epoch: Number of the pass over the data; None in an evaluation, which varies nothing.
        place: Number of the batch within the epoch.
        indices: Of the images.
        share: Which of how many equal parts of the batch this is.
    """

    epoch: int | None
    place: int
    indices: list[int]
    share: tuple[int, int] = (0, 1)


class Pool(ABC):
    """Images by index.

    Attributes:
        labelled: Whether they have labels.
        classes: Names of the classes, where they are known.
        batch_size: That of a loader, which decides it itself; None elsewhere.
        size: ``(C, H, W)`` of the (first) image, where it is not brought to the network's.
        splits: Whether a batch can be split into parts; else each part is a batch of its own.
    """

    labelled: bool
    classes: tuple[str, ...] | None = None
    batch_size: int | None = None

    size: tuple[int, ...] | None = None
    splits: bool = True

    @abstractmethod
    def __len__(self) -> int: ...

    def checksum(self) -> str:
        """Something that other images would hardly have; empty where nothing can be told."""
        return ""

    def known_labels(self) -> Tensor:
        """The labels that are known without reading images."""
        return torch.empty(0, dtype=torch.long)

    @abstractmethod
    def batches(self, parts: Iterable[Part], key: int, augment: bool) -> Iterator[Any]:
        """The batch of each part, varied by ``(key, epoch, index)`` where that is wanted."""

    def in_order(
        self, size: int, samples: int | None, seed: int, rank: int = 0, ranks: int = 1
    ) -> list[Part]:
        """The parts of one pass over the data that varies nothing.

        Args:
            size: Samples of a part, where the data does not say it.
            samples: How many to take, chosen by the seed; all where not given.
            seed: Of that choice.
            rank: Number of the process that asks.
            ranks: How many processes share the data.

        Raises:
            DataError: Samples can't be chosen, as those of a loader can't.
        """
        chosen = list(range(len(self)))
        if samples is not None and samples < len(self):
            chosen = sorted(permutation(len(self), seed, -1)[:samples])
        mine = chosen[rank::ranks]
        starts = range(0, len(mine), size)
        return [Part(None, place, mine[at : at + size]) for place, at in enumerate(starts)]


def check_all_samples(samples: int | None) -> None:
    """Raise where some samples are to be chosen from a loader.

    Raises:
        DataError: A number of samples is given.
    """
    if samples is not None:
        raise DataError(
            f"{samples} samples can't be chosen from a loader, whose batches are taken as they "
            "are: give its data set, or a loader of as many."
        )


class TensorPool(Pool):
    """Images in memory: pixels of 0 to 255 as bytes, or what is ready for the network."""

    def __init__(self, images: Tensor, labels: Tensor | None) -> None:
        self.images, self.labels = images, labels
        self.labelled = labels is not None
        self.size = tuple(images.shape[1:])

    def __len__(self) -> int:
        return len(self.images)

    def known_labels(self) -> Tensor:
        """All, where there are any."""
        return super().known_labels() if self.labels is None else self.labels

    def checksum(self) -> str:
        """Of some of the images, and all labels."""
        some = self.images[:: max(1, len(self) // 64)].cpu().contiguous().view(-1)
        found = hashlib.sha256(some.view(torch.uint8).numpy().tobytes())
        if self.labels is not None:
            found.update(self.labels.cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return found.hexdigest()[:16]

    def batches(self, parts: Iterable[Part], key: int, augment: bool) -> Iterator[Batch]:
        """The images of each part."""
        for part in parts:
            images = self.images[part.indices]
            if augment and part.epoch is not None:
                images = shift_and_mirror(images, (key, part.epoch), part.indices)
            yield images, None if self.labels is None else self.labels[part.indices]


class ItemPool(Pool):
    """Items ``(image, label)`` by index: files, or a data set's.

    An image that is pixels (of PIL) is brought to the network's size, normalised and varied; a
    tensor is taken as it is. Small images are decoded once and kept, as long as they fit.

    Args:
        items: Has ``__len__`` and ``__getitem__``.
        preparation: How images become the network's input.
        workers: Processes that read items, where they are not kept.
        classes: Names of the classes.
    """

    def __init__(
        self,
        items: Any,
        preparation: Preparation,
        workers: int,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.items, self.preparation = items, preparation
        self.workers, self.classes = workers, classes
        if not len(items):
            raise DataError("The data holds no images: give at least one.")
        with keep_random_state(0):
            image, label = split_item(read_item(items, 0))
        self.labelled = label is not None
        self.is_pixels = isinstance(image, Image.Image)
        if isinstance(image, Tensor) and image.ndim == 3:
            self.size = tuple(image.shape)
        self.shifts = self.is_pixels and preparation.is_small
        fits = len(items) * int(np.prod(preparation.size)) <= IN_MEMORY
        self.store = _Store(self) if self.shifts and fits else None

    def __len__(self) -> int:
        return len(self.items)

    def checksum(self) -> str:
        """Of the names of files."""
        return self.items.checksum() if isinstance(self.items, LabelledFiles) else ""

    def batches(self, parts: Iterable[Part], key: int, augment: bool) -> Iterator[Batch]:
        """The images of each part."""
        if self.store is not None:
            read: Iterator[tuple[Part, Batch]] = ((p, self.store.take(p.indices)) for p in parts)
        else:
            read = self._read(parts, key, augment)
        for part, (images, labels) in read:
            if self.shifts and augment and part.epoch is not None:
                yield shift_and_mirror(images, (key, part.epoch), part.indices), labels
            else:
                yield images, labels

    def _read(self, parts: Iterable[Part], key: int, augment: bool) -> Iterator[tuple[Part, Batch]]:
        asked: list[Part] = []

        def remember() -> Iterator[list[tuple[int | None, int]]]:
            for part in parts:
                asked.append(part)
                yield [(part.epoch, index) for index in part.indices]

        loader: DataLoader[Any] = DataLoader(
            _Addressed(self, key, augment),
            batch_sampler=remember(),
            num_workers=self.workers,
            collate_fn=_stack_or_error,
            generator=torch.Generator(),  # the caller's own would be drawn from else
        )
        for batch in loader:
            if isinstance(batch, DataError):
                raise batch
            yield asked.pop(0), batch

    def item(self, index: int, key: tuple[int, ...] | None) -> tuple[Tensor, int | None]:
        """One image, cropped at random where a key says how and it is large."""
        image, label = split_item(read_item(self.items, index))
        if isinstance(image, Image.Image):
            if key is None or self.shifts:
                image = self.preparation.fit(image)
            else:
                chance = draws(key, [index], 4 * TRIES + 1)[0]
                image = crop_at_random(image, self.preparation, chance)
        if not isinstance(image, Tensor) or image.ndim != 3:
            raise DataError(
                f"Item {index} of the data begins with {describe_item(image)}, and no image: give "
                "a data set of PIL images, or of tensors (C, H, W) that are ready for the network."
            )
        check_pixels(image, f"Item {index} of the data", DataError)
        try:
            return image, None if label is None else int(label)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"Item {index} of the data has {describe_item(label)} for a label: give the number "
                "of its class, or a loss of your own (loss=)."
            ) from error


class _Store:
    """Decoded images, filled as they are asked for."""

    def __init__(self, pool: ItemPool) -> None:
        self.pool = pool
        self.images = torch.empty(len(pool), *pool.preparation.size, dtype=torch.uint8)
        self.labels = torch.zeros(len(pool), dtype=torch.long)
        self.known = np.zeros(len(pool), dtype=bool)

    def take(self, indices: list[int]) -> Batch:
        for index in indices:
            if not self.known[index]:
                self.images[index], label = self.pool.item(index, None)
                self.labels[index] = 0 if label is None else label
                self.known[index] = True
        return self.images[indices], self.labels[indices] if self.pool.labelled else None


class _Addressed(Dataset[Any]):
    """Items by ``(epoch, index)``, the chance in them fixed by these alone."""

    def __init__(self, pool: ItemPool, key: int, augment: bool) -> None:
        self.pool, self.key, self.augment = pool, key, augment

    def __len__(self) -> int:
        return len(self.pool)

    def __getitem__(self, address: tuple[int | None, int]) -> tuple[Tensor, int | None] | DataError:
        try:
            return self._item(address)
        except DataError as error:  # raised in a worker, it would come with the worker's traceback
            return error

    def _item(self, address: tuple[int | None, int]) -> tuple[Tensor, int | None]:
        epoch, index = address
        key = (self.key, -1 if epoch is None else epoch)
        if self.pool.is_pixels:
            return self.pool.item(index, key if self.augment and epoch is not None else None)
        with keep_random_state(derive(*key, index)):
            return self.pool.item(index, None)


class LoaderPool(Pool):
    """A caller's loader: its batches are the batches, and each process takes its share of them."""

    def __init__(self, loader: DataLoader[Any]) -> None:
        self.loader = loader
        check_length(loader)
        images, labels = split_item(Stream(loader, 0).take(None, 0))
        if not isinstance(images, Tensor) or images.ndim != 4:
            raise DataError(
                f"The loader's batches begin with {describe_item(images)}, and no images: give one "
                "that makes tensors (N, C, H, W), ready for the network."
            )
        self.labelled, self.batch_size = labels is not None, len(images)
        self.size = tuple(images.shape[1:])

    def __len__(self) -> int:
        return len(self.loader) * (self.batch_size or 1)

    def in_order(
        self, size: int, samples: int | None, seed: int, rank: int = 0, ranks: int = 1
    ) -> list[Part]:
        """A part for each batch: the share that this process has of it."""
        check_all_samples(samples)
        return [Part(None, place, [], (rank, ranks)) for place in range(len(self.loader))]

    def batches(self, parts: Iterable[Part], key: int, augment: bool) -> Iterator[Batch]:
        """The images of each part; what comes before the first one's place is passed over."""
        stream = Stream(self.loader, key)
        for part in parts:
            batch = split_item(stream.take(part.epoch, part.place))
            check_pixels(
                batch[0], f"Batch {part.place} of the loader: image", DataError, places=True
            )
            rank, shares = part.share
            yield tuple(None if x is None else x[_share(len(x), rank, shares)] for x in batch)  # type: ignore[misc]


def _share(count: int, rank: int, shares: int) -> slice:
    return slice(rank * count // shares, (rank + 1) * count // shares)


def _stack_or_error(items: list[Any]) -> Batch | DataError:
    """A batch; the first error where there is one."""
    try:
        return next((item for item in items if isinstance(item, DataError)), None) or _stack(items)
    except DataError as error:
        return error


def _stack(items: list[tuple[Tensor, int | None]]) -> Batch:
    images, labels = zip(*items, strict=True)
    if len({image.shape for image in images}) > 1:
        raise DataError("Images of several sizes are in one batch: give them one size.")
    known = None if labels[0] is None else torch.tensor(labels)
    return torch.stack(images), known


class LabelledFiles:
    """Image files and the numbers of their classes; opened when asked for."""

    def __init__(self, paths: list[Path], labels: list[int] | None) -> None:
        self.paths, self.labels = paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def checksum(self) -> str:
        """Of the files' names and the names of their folders."""
        names = "\n".join(f"{path.parent.name}/{path.name}" for path in self.paths)
        return hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()[:16]

    def __getitem__(self, index: int) -> tuple[Image.Image, int | None]:
        label = None if self.labels is None else self.labels[index]
        return open_image(self.paths[index]), label
