"""Calibration images from a folder, a tensor, a data set or a loader; labels are not read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from ghostify.data.image_files import DataError, find_images
from ghostify.data.items import describe_item, split_item
from ghostify.data.preparation import Preparation, preparation_of
from ghostify.data.spool import Spool
from ghostify.distributed import processes
from ghostify.graph.failure import describe_error
from ghostify.graph.inputs import dtype_of
from ghostify.numerics.finite import check_pixels, non_finite
from ghostify.settings import Calibration

CalibrationImages = str | Path | Tensor | Spool | Dataset | DataLoader | Iterable[Any]
"""Where calibration images may come from."""


def images_for(
    network: nn.Module, calibration: Calibration, input_size: tuple[int, ...]
) -> tuple[Spool, tuple[str, ...]]:
    """A network's calibration images, read and checked, and what a reader must know of them.

    Args:
        network: In eval mode.
        calibration: Where they come from, and how many are taken.
        input_size: ``(C, H, W)`` that image files are brought to.

    Raises:
        DataError: They can't be read, or the network can't take them.
    """
    preparation, notes = None, tuple[str, ...]()
    if isinstance(calibration.images, str | os.PathLike):
        preparation = preparation_of(network, input_size, calibration.mean, calibration.std)
        notes = preparation.notes
    dtype = dtype_of(network)
    images = gather(calibration.images, calibration.samples, calibration.seed, preparation, dtype)
    check_images(network, images)
    return images, notes


def gather(
    source: CalibrationImages,
    samples: int,
    seed: int,
    preparation: Preparation | None,
    dtype: torch.dtype = torch.float32,
) -> Spool:
    """At most ``samples`` images, ready for the network.

    Args:
        source: A folder (`torchvision.datasets.ImageFolder`'s layout or flat), a tensor
            ``(N, C, H, W)``, a data set or a loader whose items are images or begin with one.
        samples: How many to take.
        seed: Of the choice.
        preparation: For image files.
        dtype: Floating-point type that the network takes.

    Raises:
        DataError: There are none, or they can't be read.
    """
    if isinstance(source, Spool):  # they have been gathered
        return source
    if samples < 1:
        raise DataError(f"calibration_samples={samples} makes no sense: give 1 or more.")
    spool = Spool()
    shape: tuple[int, ...] | None = None
    for number, (what, image) in enumerate(_take(source, samples, seed, preparation)):
        check_pixels(image, what, DataError)
        shape = tuple(image.shape) if shape is None else shape
        if tuple(image.shape) != shape:
            raise DataError(
                f"{what} has the shape {tuple(image.shape)}, and the {number} before it {shape}: "
                "give images of one shape."
            )
        spool.append(image[None].to(dtype))
    if not len(spool):
        raise DataError("The calibration data holds no images: give at least one.")
    return spool


@torch.no_grad()
def check_images(network: nn.Module, images: Spool) -> None:
    """Raise where a network can't take the images, or makes no numbers of them.

    Args:
        network: In eval mode.
        images: Of which it is given one.
    """
    parameter = next(network.parameters(), torch.zeros(()))
    image = images.take([0])
    shape = "x".join(map(str, image.shape[1:]))
    try:
        output = network(image.to(parameter.device))
    except (RuntimeError, ValueError, TypeError, IndexError, AssertionError) as error:
        raise DataError(
            f"The network can't take calibration images of {shape} ({describe_error(error)}): "
            "give images as its forward takes them, (C, H, W) each."
        ) from error
    made = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    if non_finite((str(place), x) for place, x in enumerate(made)):
        bad = non_finite(network.state_dict().items())
        why = f"its {bad[0]!r} holds some" if bad else "check its weights and the images"
        raise DataError(
            "The network's output for a calibration image holds values that are not finite "
            f"({why}): nothing can be fitted to it; leave calibration, or give a trained network."
        )


def batch_size(sample: Tensor, most: int) -> int:
    """Images at a time: fewer when they, or the maps that a segment gets, are large.

    Args:
        sample: One of them, ``(1, ...)``.
        most: At most so many.
    """
    return max(8, min(most, 2**22 // max(sample[0].numel(), 1)))


def _take(
    source: Any, samples: int, seed: int, preparation: Preparation | None
) -> Iterator[tuple[str, Tensor]]:
    """Images, each with its name for a message."""
    if isinstance(source, str | Path):
        assert preparation is not None
        files = find_images(Path(source))
        for i in _choose(len(files), samples, seed):
            yield str(files[i]), preparation.read(files[i])
    elif isinstance(source, Tensor):
        if source.ndim != 4:
            raise DataError(
                f"Calibration images of shape {tuple(source.shape)} make no sense: "
                "give a tensor (N, C, H, W)."
            )
        for i in _choose(len(source), samples, seed):
            yield f"Image {i} of the calibration images", source[i]
    elif isinstance(source, DataLoader) or not hasattr(source, "__getitem__"):
        rank, world = processes()
        for i, image in islice(enumerate(_from_loader(source, samples)), rank, None, world):
            yield f"Image {i} of the calibration data", image
    else:
        count = len(source)
        for i in _choose(count, samples, seed):
            yield f"Item {i} of the calibration data", _image(source[i])


def _choose(count: int, samples: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    rank, world = processes()
    if min(count, samples) < world:
        raise DataError(
            f"{min(count, samples)} calibration images are too few for {world} processes: give "
            "one for each or more."
        )
    # Not sorted: files lie class by class, and some steps look at the first images only.
    return torch.randperm(count, generator=generator)[:samples].tolist()[rank::world]


def _from_loader(loader: Iterable[Any], samples: int) -> Iterator[Tensor]:
    left = samples
    for batch in loader:
        images = _image(batch, batched=True)[:left]
        yield from images
        left -= len(images)
        if left <= 0:
            return


def _image(item: Any, batched: bool = False) -> Tensor:
    """The image of an item of a data set, or the images of a loader's batch."""
    image, _ = split_item(item)
    if not isinstance(image, Tensor) or image.ndim != 3 + batched:
        raise DataError(
            f"An item of the calibration data begins with {describe_item(image)}, and no image: "
            "give a data set whose transform makes tensors (C, H, W), ready for the network."
        )
    return image
