"""From image files and pixels to what a network takes, for training and for evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ghostify.data.calibration import Preprocessing
from ghostify.errors import GhostifyError
from ghostify.files import read_image
from ghostify.numerics.chance import draws

SMALL = 64
"""Largest input that is small: such images are shifted, larger ones cropped and resized."""

SHIFT = 8
"""Small images are shifted by up to this part of their size (4 pixels of 32)."""

AREA, ASPECT, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10
CROP_PCT = 0.875


class DataError(GhostifyError):
    """Images or labels can't be read, or don't fit the network."""


@dataclass(frozen=True)
class Recipe:
    """How images become a network's input.

    Attributes:
        prepare: Size and normalisation.
        crop_pct: Part of the resized image's side that evaluation cuts out.
        interpolation: Of resizing.
    """

    prepare: Preprocessing
    crop_pct: float
    interpolation: Image.Resampling

    @classmethod
    def of(cls, model: nn.Module, prepare: Preprocessing) -> Recipe:
        """What the network's ``pretrained_cfg`` or ``default_cfg`` says, else what is usual."""
        config: Mapping[str, Any] = {}
        for name in ("pretrained_cfg", "default_cfg"):
            found = getattr(model, name, None)
            if not config and isinstance(found, Mapping):
                config = found
        small = max(prepare.size[1:]) <= SMALL
        part = config.get("crop_pct") or (1.0 if small else CROP_PCT)
        kind = str(config.get("interpolation", "bilinear")).upper()
        resampling = getattr(Image.Resampling, kind, Image.Resampling.BILINEAR)
        return cls(prepare, float(part), resampling)

    @property
    def is_small(self) -> bool:
        """Whether the network's input is small."""
        return max(self.prepare.size[1:]) <= SMALL

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels ``(N, C, H, W)`` of 0 to 255 as the network takes them; others as they are."""
        if images.dtype != torch.uint8:
            return images
        shape = (1, -1, 1, 1)
        mean = torch.tensor(self.prepare.mean, device=images.device).view(shape)
        std = torch.tensor(self.prepare.std, device=images.device).view(shape)
        return (images.float() / 255 - mean) / std

    def fit(self, image: Image.Image) -> Tensor:
        """The shorter side resized, the middle cut out: pixels ``(C, H, W)``."""
        _, height, width = self.prepare.size
        if self.is_small and image.size == (width, height):
            return self.pixels(image)
        scale = max(height / image.height, width / image.width) / self.crop_pct
        size = (max(width, round(image.width * scale)), max(height, round(image.height * scale)))
        image = image.resize(size, self.interpolation)
        left, top = (size[0] - width) // 2, (size[1] - height) // 2
        return self.pixels(image.crop((left, top, left + width, top + height)))

    def crop_at_random(self, image: Image.Image, chance: np.ndarray[Any, Any]) -> Tensor:
        """A part of random area and aspect, resized, and mirrored at random: ``(C, H, W)``.

        Args:
            image: The image.
            chance: ``4 * TRIES + 1`` numbers in [0, 1).
        """
        _, height, width = self.prepare.size
        box = _random_box(image.size, chance[1:].reshape(TRIES, 4))
        image = image.resize((width, height), self.interpolation, box=box)
        if chance[0] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return self.pixels(image)

    def pixels(self, image: Image.Image) -> Tensor:
        """``(C, H, W)`` of 0 to 255."""
        image = image.convert("L" if self.prepare.size[0] == 1 else "RGB")
        array = np.array(image, dtype=np.uint8)
        return torch.from_numpy(array).view(image.height, image.width, -1).permute(2, 0, 1)


def shift_and_mirror(images: Tensor, key: tuple[int, ...], indices: list[int]) -> Tensor:
    """Images cut out of ones with a black border, at random places, and mirrored at random.

    Args:
        images: ``(N, C, H, W)``.
        key: With an image's index, what its variation depends on.
        indices: Of the images.
    """
    height, width = images.shape[-2:]
    reach = (height // SHIFT, width // SHIFT)
    chance = draws(key, indices, 3)
    flip = torch.from_numpy(chance[:, 0] < 0.5).view(-1, 1, 1, 1)
    images = torch.where(flip, images.flip(3), images)
    padded = F.pad(images, (reach[1], reach[1], reach[0], reach[0]))
    top, left = (
        torch.from_numpy((chance[:, i + 1] * (2 * r + 1)).astype(np.int64))
        for i, r in enumerate(reach)
    )
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    return windows[torch.arange(len(images)), :, top, left]


def open_image(path: Path) -> Image.Image:
    """An image file, decoded.

    Raises:
        DataError: It can't be read.
    """
    return read_image(path, "leave it out", DataError)


def _random_box(
    size: tuple[int, int], chance: np.ndarray[Any, Any]
) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a part of an image; the whole middle where none fits."""
    width, height = size
    logs = [math.log(value) for value in ASPECT]
    for area, aspect, x, y in chance:
        wanted = width * height * (AREA[0] + area * (AREA[1] - AREA[0]))
        ratio = math.exp(logs[0] + aspect * (logs[1] - logs[0]))
        w, h = round(math.sqrt(wanted * ratio)), round(math.sqrt(wanted / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(x * (width - w + 1)), int(y * (height - h + 1))
            return left, top, left + w, top + h
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side
