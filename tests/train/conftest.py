"""Small networks and images that the tests of tuning share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ghostify


@pytest.fixture
def pair(small_net: nn.Module) -> tuple[nn.Module, nn.Module]:
    """A converted network and its original, for images of 16 x 16."""
    return ghostify.convert(small_net, s=2, input_size=(3, 16, 16)), small_net


@pytest.fixture
def labelled() -> tuple[Tensor, Tensor]:
    """48 images, ready for the network, and labels below 5 that their colours tell."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(48) % 5
    colours = torch.randn(5, 3, 1, 1, generator=generator)
    return colours[labels] + 0.3 * torch.randn(48, 3, 16, 16, generator=generator), labels


@pytest.fixture
def write_images() -> Callable[..., Path]:
    """Writes a folder of class folders with images of noise."""

    def write(folder: Path, classes: dict[str, int], size: tuple[int, int] = (16, 16)) -> Path:
        chance = np.random.default_rng(0)
        for name, count in classes.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
        return folder

    return write
