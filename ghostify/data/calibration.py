"""Calibration images from a folder, a tensor, a data set or a loader; labels are not read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import DataLoader, Dataset

from ghostify.data.spool import Spool
from ghostify.distributed import processes
from ghostify.errors import GhostifyError
from ghostify.files import find_files, kind_of
from ghostify.files import read_image as decode
from ghostify.graph.failure import describe_error
from ghostify.numerics.finite import check_pixels, non_finite

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Source = str | Path | Tensor | Spool | Dataset | DataLoader | Iterable[Any]
"""What calibration images may come from."""


class CalibrationError(GhostifyError):
    """Calibration images can't be read, or are none."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image file becomes a network's input.

    Attributes:
        size: ``(C, H, W)``.
        mean: Of each channel, images being in 0..1.
        std: Of each channel.
        assumed: Whether mean and std are ImageNet's because the network names none.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    assumed: bool = False


def preprocessing_of(
    model: nn.Module,
    size: tuple[int, ...],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing:
    """What the network's own configuration says, where the caller says nothing.

    Args:
        model: The network; its ``pretrained_cfg`` or ``default_cfg`` is read.
        size: ``(C, H, W)`` of its input.
        mean: In place of the configuration's.
        std: In place of the configuration's.
    """
    configured = [
        config
        for name in ("pretrained_cfg", "default_cfg")
        if isinstance(config := getattr(model, name, None), Mapping)
    ]
    known = next((c for c in configured if "mean" in c and "std" in c), None)
    means = tuple(mean or (known["mean"] if known else IMAGENET_MEAN))
    stds = tuple(std or (known["std"] if known else IMAGENET_STD))
    if len(size) != 3 or {len(means), len(stds)} != {size[0]}:
        raise CalibrationError(
            f"Images for an input of {'x'.join(map(str, size))} can't be normalised with mean "
            f"{list(means)} and std {list(stds)}: give tensors that are ready for the network."
        )
    assumed = known is None and (mean is None or std is None)
    return Preprocessing((size[0], size[1], size[2]), means, stds, assumed)


def gather(
    source: Source,
    samples: int,
    seed: int,
    prepare: Preprocessing | None,
    dtype: torch.dtype = torch.float32,
) -> Spool:
    """At most ``samples`` images, ready for the network.

    Args:
        source: A folder (`torchvision.datasets.ImageFolder`'s layout or flat), a tensor
            ``(N, C, H, W)``, a data set or a loader whose items are images or begin with one.
        samples: How many to take.
        seed: Of the choice.
        prepare: For image files.
        dtype: What the network takes.

    Raises:
        CalibrationError: There are none, or they can't be read.
    """
    if isinstance(source, Spool):  # they have been gathered
        return source
    if samples < 1:
        raise CalibrationError(f"calibration_samples={samples} makes no sense: give 1 or more.")
    spool = Spool()
    shape: tuple[int, ...] | None = None
    for number, (what, image) in enumerate(_take(source, samples, seed, prepare)):
        check_pixels(image, what, CalibrationError)
        shape = tuple(image.shape) if shape is None else shape
        if tuple(image.shape) != shape:
            raise CalibrationError(
                f"{what} has the shape {tuple(image.shape)}, and the {number} before it {shape}: "
                "give images of one shape."
            )
        spool.append(image[None].to(dtype))
    if not len(spool):
        raise CalibrationError("The calibration data holds no images: give at least one.")
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
        raise CalibrationError(
            f"The network can't take calibration images of {shape} ({describe_error(error)}): "
            "give images as its forward takes them, (C, H, W) each."
        ) from error
    made = [x for x in pytree.tree_leaves(output) if isinstance(x, Tensor)]
    if non_finite((str(place), x) for place, x in enumerate(made)):
        bad = non_finite(network.state_dict().items())
        why = f"its {bad[0]!r} holds some" if bad else "check its weights and the images"
        raise CalibrationError(
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
    source: Any, samples: int, seed: int, prepare: Preprocessing | None
) -> Iterator[tuple[str, Tensor]]:
    """Images, each with its name for a message."""
    if isinstance(source, str | Path):
        assert prepare is not None
        files = find_images(Path(source))
        for i in _choose(len(files), samples, seed):
            yield str(files[i]), read_image(files[i], prepare)
    elif isinstance(source, Tensor):
        if source.ndim != 4:
            raise CalibrationError(
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
        raise CalibrationError(
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
    """The image (or images) of an item of a data set: itself, its first part, or its ``image``."""
    if isinstance(item, Mapping):
        item = next((item[key] for key in ("image", "images", "pixel_values") if key in item), None)
    elif isinstance(item, tuple | list):
        item = item[0]
    if not isinstance(item, Tensor) or item.ndim != 3 + batched:
        what = f"a tensor of shape {tuple(item.shape)}" if isinstance(item, Tensor) else type(item)
        raise CalibrationError(
            f"An item of the calibration data begins with {what}, and no image: give a data set "
            "whose transform makes tensors (C, H, W), ready for the network."
        )
    return item


def find_images(folder: Path) -> list[Path]:
    """All image files under a folder, in order of their names."""
    if kind_of(folder, CalibrationError) != "folder":
        raise CalibrationError(f"{folder} is no folder: give one that holds images.")
    files = sorted(map(Path, find_files(folder, IMAGES, CalibrationError)))
    if not files:
        raise CalibrationError(f"{folder} holds no images ({', '.join(IMAGES[:3])}, ...).")
    return files


def read_image(path: Path, prepare: Preprocessing) -> Tensor:
    """An image file as ``(C, H, W)``: shorter side to size, the middle cut out, normalised."""
    from PIL import Image, ImageOps

    channels, height, width = prepare.size
    mode = "L" if channels == 1 else "RGB"
    image = decode(path, "leave it out", CalibrationError, mode)
    if image.size != (width, height):
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(image, dtype=np.float32) / 255).view(height, width, -1)
    mean, std = torch.tensor(prepare.mean), torch.tensor(prepare.std)
    return ((pixels - mean) / std).permute(2, 0, 1)
