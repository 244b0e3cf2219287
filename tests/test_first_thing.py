"""The first thing that must work: the installed command, a trained network, real images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ghostify


def convert(data_dir: Path, s: int, output: Path) -> str:
    """The issue's command, as a shell runs it."""
    command = Path(sys.executable).with_name("ghostify")
    weights = data_dir / "resnet56-cifar10.safetensors"
    options = f"--weights {weights} --mode c-ghost --s {s} -o {output}".split()
    done = subprocess.run(
        [command, "convert", "resnet56-cifar", *options], capture_output=True, text=True, check=True
    )
    return done.stdout


@pytest.fixture(scope="module")
def trained(data_dir):
    weights = data_dir / "resnet56-cifar10.safetensors"
    return ghostify.build("resnet56-cifar", weights=weights).eval()


@pytest.fixture(scope="module")
def images(cifar_test):
    """300 of the real test images, 30 of each class, and their labels."""
    chosen = torch.cat([torch.arange(start, start + 30) for start in range(0, 1000, 100)])
    return cifar_test[0][chosen], cifar_test[1][chosen]


def scores(model, images):
    with torch.no_grad():
        return model.eval()(images[0])


def test_s_1_keeps_every_score_and_so_the_accuracy(data_dir, trained, images, tmp_path):
    out = convert(data_dir, 1, tmp_path / "out")
    assert "0 layers replaced" in out
    loaded = scores(ghostify.load(tmp_path / "out"), images)
    assert torch.equal(loaded, scores(trained, images))
    # 89.4 % on all 10,000 (data/README.md); 300 images are within 5.4 points of it at 3 sigma.
    assert (loaded.argmax(1) == images[1]).float().mean() > 0.84


def test_s_2_halves_the_cost_and_loads_bit_for_bit(data_dir, trained, images, tmp_path):
    out = convert(data_dir, 2, tmp_path / "out")
    # REPRODUCING.md, ResNet56-CIFAR at s=2, d=3: 438,010 parameters.
    assert "438k     1.95" in out
    loaded = ghostify.load(tmp_path / "out")
    assert sum(p.numel() for p in loaded.parameters()) == 438_010
    found = scores(loaded, images)
    assert torch.isfinite(found).all() and found.shape == (300, 10)
    assert torch.equal(found, scores(ghostify.convert(trained, mode="c-ghost", s=2), images))
    assert not torch.equal(found, scores(trained, images))
