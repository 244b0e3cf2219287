"""What the tests of the clock share: a small network, and a cache of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, which is the user's for the time of a test."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GHOSTIFY_CACHE", str(folder))
    return folder


@pytest.fixture
def network() -> nn.Sequential:
    """Three convolutions that can become ghosts, two of them of one signature, and one that can't.

    Their inputs are ``(N, 3, 12, 12)``.
    """
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1, groups=64),
    ).eval()  # fmt: skip
