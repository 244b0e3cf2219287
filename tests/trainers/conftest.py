"""A small trained network's stand-in, its conversion, and images."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ghostify


@pytest.fixture
def original() -> nn.Module:
    torch.manual_seed(0)
    return ghostify.build("resnet20-cifar")


@pytest.fixture
def student(original: nn.Module) -> nn.Module:
    return ghostify.convert(original, s=2, input_size=(3, 32, 32))


@pytest.fixture
def images() -> list[tuple[torch.Tensor, int]]:
    torch.manual_seed(1)
    return [(torch.rand(3, 32, 32), index % 10) for index in range(16)]
