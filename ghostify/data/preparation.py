"""From an image file to a network's input: one way for calibration, analysis, training, evaluation.

The network's own configuration says how: timm's ``pretrained_cfg`` or ``default_cfg`` (a network
that was built with torchvision's weights has their transforms there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ghostify.data.image_files import DataError, open_image
from ghostify.models.cifar import IMAGENET_MEAN, IMAGENET_STD

SMALL = 64
"""Largest side of a small input, of which nothing is cut off."""

CROP_PCT = 0.875
"""Part of a resized image's side that a larger input takes, where the network names none."""

SLENDER = 32
"""Longest aspect that is resized whole: the far ends of longer images are cut off before."""


@dataclass(frozen=True)
class Preparation:
    """Resizing, cutting and normalising of images, as in timm's and torchvision's evaluation.

    Attributes:
        size: ``(C, H, W)`` of the network's input.
        mean: Of each channel, images being in 0..1.
        std: Of each channel.
        crop_pct: Part of the resized image's side that is cut out; a fraction where it is exact.
        crop_mode: ``"center"`` resizes the shorter side and cuts out the middle, ``"squash"`` does
            not keep the aspect, ``"border"`` resizes the longer side and pads the shorter one.
        interpolation: Of resizing.
        assumed: Whether mean and std are ImageNet's because the network names none.
    """

    size: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float | Fraction = 1.0
    crop_mode: str = "center"
    interpolation: Image.Resampling = Image.Resampling.BILINEAR
    assumed: bool = False

    @property
    def is_small(self) -> bool:
        """Whether the network's input is small: such images are shifted to vary them."""
        return max(self.size[1:]) <= SMALL

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for a report on what had to be assumed."""
        note = "normalisation assumed (ImageNet's mean and std): the network names none"
        return (note,) if self.assumed else ()

    def read(self, path: Path) -> Tensor:
        """An image file as the network takes it, ``(C, H, W)``.

        Raises:
            DataError: It can't be read.
        """
        return self.normalise(self.fit(open_image(path))[None])[0]

    def fit(self, image: Image.Image) -> Tensor:
        """The pixels of `crop`, ``(C, H, W)`` of 0 to 255."""
        return pixels(self.crop(image))

    def crop(self, image: Image.Image) -> Image.Image:
        """The image resized and its middle cut out, of the network's size and colours."""
        _, height, width = self.size
        image = self.colour(image)
        if self.crop_mode == "center":
            image = _without_far_ends(image)
        image = image.resize(self._resized(image.width, image.height), self.interpolation)
        if image.width < width or image.height < height:
            image = self._bordered(image, max(image.width, width), max(image.height, height))
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))

    def colour(self, image: Image.Image) -> Image.Image:
        """The image in grey or RGB, as the network has channels."""
        return image.convert("L" if self.size[0] == 1 else "RGB")

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` of 0 to 255 as the network takes them; others as they are."""
        if images.dtype != torch.uint8:
            return images
        mean, std = (
            torch.tensor(values, device=images.device).view(1, -1, 1, 1)
            for values in (self.mean, self.std)
        )
        return (images.float() / 255 - mean) / std

    def _resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the cut, rounded as torchvision's ``Resize`` and timm do."""
        high, wide = (math.floor(side / self.crop_pct) for side in self.size[1:])
        if self.crop_mode == "squash":
            return wide, high
        if self.crop_mode == "center" and high == wide:
            short = min(width, height)
            return int(wide * width / short), int(high * height / short)
        ratios = height / high, width / wide
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return max(1, round(width / ratio)), max(1, round(height / ratio))

    def _bordered(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """The image in the middle of one of the mean's colour."""
        fill = tuple(round(255 * value) for value in self.mean)
        canvas = Image.new(image.mode, (width, height), fill if len(fill) > 1 else fill[0])
        canvas.paste(image, ((width - image.width) // 2, (height - image.height) // 2))
        return canvas


def preparation_of(
    model: nn.Module,
    size: Sequence[int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preparation:
    """The preparation that a network's own configuration names, else what is usual.

    Args:
        model: The network; its ``pretrained_cfg`` and ``default_cfg`` are read.
        size: ``(C, H, W)`` of its input.
        mean: In place of the configuration's.
        std: Likewise.

    Raises:
        DataError: Image files can't be brought to such an input.

    Example:
        >>> network = nn.Conv2d(3, 8, 3)
        >>> network.pretrained_cfg = {"crop_pct": 0.95, "interpolation": "bicubic"}
        >>> found = preparation_of(network, (3, 224, 224))
        >>> found.crop_pct, found.interpolation.name, found.assumed
        (0.95, 'BICUBIC', True)
    """
    if not isinstance(size, Sequence) or any(not isinstance(n, int) or n < 1 for n in size):
        raise DataError(f"input_size={size!r} makes no sense: give (C, H, W).")
    config = _configuration(model)
    is_known = bool(config.get("mean") and config.get("std"))
    own = config if is_known else {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    channels = size[0] if len(size) == 3 else 0
    means = tuple(mean or _for_channels(own["mean"], channels))
    stds = tuple(std or _for_channels(own["std"], channels))
    if channels not in (1, 3) or {len(means), len(stds)} != {channels}:
        raise DataError(
            f"Images for an input of {'x'.join(map(str, size))} can't be normalised with mean "
            f"{list(means)} and std {list(stds)}: give tensors that are ready for the network."
        )
    is_small = max(size[1:]) <= SMALL
    kind = str(config.get("interpolation", "bilinear")).upper()
    return Preparation(
        (size[0], size[1], size[2]),
        means,
        stds,
        1.0 if is_small else config.get("crop_pct") or CROP_PCT,
        config.get("crop_mode") or "center",
        getattr(Image.Resampling, kind, Image.Resampling.BILINEAR),
        not is_known and (mean is None or std is None),
    )


def pixels(image: Image.Image) -> Tensor:
    """``(C, H, W)`` of 0 to 255 of an image in grey or RGB."""
    array = np.array(image, dtype=np.uint8)
    return torch.from_numpy(array).view(image.height, image.width, -1).permute(2, 0, 1)


def _configuration(model: nn.Module) -> dict[str, Any]:
    """The entries of ``pretrained_cfg``, and of ``default_cfg`` those that it does not have."""
    found = [getattr(model, name, None) for name in ("default_cfg", "pretrained_cfg")]
    known = [config for config in found if isinstance(config, Mapping)]
    return {k: value for config in known for k, value in config.items() if value is not None}


def _for_channels(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value for each channel; for grey images the mean of the colours'."""
    return (sum(values) / len(values),) if channels == 1 else tuple(values)


def _without_far_ends(image: Image.Image) -> Image.Image:
    longest = SLENDER * min(image.size)
    left, top = (max(0, side - longest) // 2 for side in image.size)
    if not left and not top:
        return image
    return image.crop((left, top, image.width - left, image.height - top))
