"""The detection example trains."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import pytest
import torch

from ghostify.models import c_ghostnet, g_ghostnet

EXAMPLE = Path(__file__).parents[2] / "examples" / "detection_backbone.py"


def _example():
    spec = importlib.util.spec_from_file_location("detection_backbone", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("build", [c_ghostnet, g_ghostnet])
def test_retinanet_learns_on_it(build):
    example = _example()
    torch.manual_seed(0)
    losses = example.train(example.retinanet(build, 64, width=0.5), steps=4, size=64)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
