"""Opening of folders, tensors, data sets and loaders as a `Pool` of images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from ghostify.data.any_batches import AnyItems, AnyLoader
from ghostify.data.image_files import DataError, find_images, folder_of
from ghostify.data.pools import ItemPool, LabelledFiles, LoaderPool, Pool, TensorPool
from ghostify.data.preparation import Preparation
from ghostify.errors import first_line
from ghostify.files import kind_of, list_folder
from ghostify.numerics.finite import check_pixels

Data = Any
"""A folder, ``(images, labels)`` or images as tensors, a data set, a loader."""

AT_ONCE = 256
"""Images whose values are checked at a time."""

TRAIN, HELD_OUT = ("train", "training"), ("val", "valid", "validation", "test")


def open_pool(data: Data, preparation: Preparation, workers: int = 0) -> Pool:
    """The images of what a caller gave.

    Args:
        data: A folder of class folders (or of images alone, without labels), a tensor
            ``(N, C, H, W)`` or a pair of it and labels ``(N,)``, a `torch.utils.data.DataLoader`,
            or a data set whose items are ``(image, label)``.
        preparation: How images become the network's input.
        workers: Processes that read, where the images are not kept in memory.

    Raises:
        DataError: It is none of these, or holds no images.
    """
    for accepts, make in OPENERS:
        if accepts(data):
            return _not_empty(make(data, preparation, workers))
    raise DataError(
        f"A {type(data).__name__} is no data: give a folder, tensors (images, labels), a data set "
        "with a length, or a DataLoader."
    )


def open_batches(data: Data, workers: int = 0) -> Pool:
    """Batches of any structure, as a caller's own loss or metric takes them.

    Args:
        data: A loader, whose batches are taken as they are; a tensor, or a tuple of tensors of one
            length; or a data set, whose items are put together by its ``collate_fn`` (a method or
            an attribute), where it has one.
        workers: Processes that read a data set's items.

    Raises:
        DataError: It is none of these, or is empty.
    """
    if isinstance(data, DataLoader):
        return _not_empty(AnyLoader(data))
    if isinstance(data, tuple) and data and all(isinstance(part, Tensor) for part in data):
        if len({part.shape[:1] for part in data}) > 1 or not data[0].ndim:
            shapes = ", ".join(str(tuple(part.shape)) for part in data)
            raise DataError(f"Tensors of shapes {shapes} are no data: give one length to all.")
        return _not_empty(AnyItems(TensorDataset(*data), workers))
    if isinstance(data, Tensor) and not data.ndim:
        raise DataError("A tensor of one number is no data: give tensors (N, ...).")
    if _is_data_set(data):
        return _not_empty(AnyItems(data, workers))
    if isinstance(data, Iterable) and not isinstance(data, Iterator | Mapping | str | bytes):
        return _not_empty(AnyLoader(data))
    raise DataError(
        f"A {type(data).__name__} is no data for a loss or metric of one's own: give a loader that "
        "can be read again and again, a data set with a length, or a tuple of tensors."
    )


def is_path(data: Data) -> bool:
    """Whether the data are named by the path of a folder."""
    return isinstance(data, str | os.PathLike)


def _not_empty(pool: Pool) -> Pool:
    if not len(pool):
        raise DataError("The data holds no images: give at least one.")
    return pool


def split_folder(data: Data, val: Data | None) -> tuple[Data, Data | None]:
    """Where a folder has ``train`` inside: that, and the ``val`` or ``test`` beside it.

    Example:
        >>> split_folder("no/such/folder", None)
        ('no/such/folder', None)
    """
    if not is_path(data):
        return data, val
    train = _inside(Path(data), TRAIN)
    if train is None:
        return data, val
    return train, _inside(Path(data), HELD_OUT) if val is None else val


def held_out(data: Data) -> Data:
    """Where a folder has ``test`` or ``val`` inside: that; else what is given."""
    if not is_path(data):
        return data
    found = _inside(Path(data), tuple(reversed(HELD_OUT)))
    return data if found is None else found


def _inside(folder: Path, names: tuple[str, ...]) -> Path | None:
    found = (folder / name for name in names)
    return next((path for path in found if kind_of(path, DataError) == "folder"), None)


def _open_folder(data: Data, preparation: Preparation, workers: int) -> Pool:
    folder = folder_of(data)
    if kind_of(folder, DataError) != "folder":
        raise DataError(f"{folder} is no folder: give one that holds images.")
    classes = [path.name for path in list_folder(folder, DataError) if path.is_dir()]
    classes = [name for name in classes if not name.startswith(".")]
    if not classes:
        return ItemPool(LabelledFiles(find_images(folder), None), preparation, workers)
    groups = [find_images(folder / name) for name in classes]
    paths = [path for group in groups for path in group]
    labels = [number for number, group in enumerate(groups) for _ in group]
    return ItemPool(LabelledFiles(paths, labels), preparation, workers, tuple(classes))


def _is_tensors(data: Data) -> bool:
    if isinstance(data, Tensor):
        return True
    return isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor)


def _open_tensors(data: Data, preparation: Preparation, workers: int) -> Pool:
    images, labels = (data, None) if isinstance(data, Tensor) else data
    if images.ndim != 4:
        raise DataError(
            f"Images of shape {tuple(images.shape)} make no sense: give a tensor (N, C, H, W)."
        )
    for place, some in enumerate(images.split(AT_ONCE)):
        check_pixels(some, f"Of the images from {AT_ONCE * place} on, image", DataError, True)
    if labels is not None:
        try:
            labels = torch.as_tensor(labels)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"Labels that are a {type(labels).__name__} can't become a tensor "
                f"({first_line(error)}): give whole numbers, (N,)."
            ) from error
        if labels.ndim != 1 or len(labels) != len(images) or labels.dtype.is_floating_point:
            raise DataError(
                f"Labels of shape {tuple(labels.shape)} and {labels.dtype} don't fit "
                f"{len(images)} images: give whole numbers, (N,)."
            )
        labels = labels.long()
    return TensorPool(images, labels)


def _is_data_set(data: Data) -> bool:
    return hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, dict)


Opener = tuple[Callable[[Data], bool], Callable[[Data, Preparation, int], Pool]]
OPENERS: tuple[Opener, ...] = (
    (is_path, _open_folder),
    (_is_tensors, _open_tensors),
    (lambda data: isinstance(data, DataLoader), lambda data, *_: LoaderPool(data)),
    (_is_data_set, ItemPool),
)
"""The kinds of data, in the order in which they are asked; a new kind is one more entry."""
