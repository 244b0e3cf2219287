"""The detection example trains."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path

import torch

from ghostify.models import c_ghostnet

EXAMPLE = Path(__file__).parents[2] / "examples" / "detection_backbone.py"


def _example():
    spec = importlib.util.spec_from_file_location("detection_backbone", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_retinanet_on_c_ghostnet_learns():
    example = _example()
    torch.manual_seed(0)
    losses = example.train(example.retinanet(c_ghostnet, 64, width=0.5), steps=4, size=64)
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]
