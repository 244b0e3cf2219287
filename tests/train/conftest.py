"""Small networks and images that the tests of tuning share."""

from __future__ import annotations

import pytest
import torch
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
