"""Random variation of training images: small ones are shifted, larger ones cropped and resized."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ghostify.data.preparation import Preparation, pixels
from ghostify.numerics.chance import draws

SHIFT = 8
"""Small images are shifted by up to this part of their size (4 pixels of 32)."""

AREA, ASPECT, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10


def crop_at_random(
    image: Image.Image, preparation: Preparation, chance: np.ndarray[Any, Any]
) -> Tensor:
    """A part of random area and aspect, resized, and mirrored at random: ``(C, H, W)``.

    Args:
        image: The image.
        preparation: Of it in an evaluation: its size, colours and interpolation hold here too.
        chance: ``4 * TRIES + 1`` numbers in [0, 1).
    """
    _, height, width = preparation.size
    box = _random_box(image.size, chance[1:].reshape(TRIES, 4))
    image = preparation.colour(image).resize((width, height), preparation.interpolation, box=box)
    if chance[0] < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return pixels(image)


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
