"""The options of the warm start on the command line."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

import ghostify

NET = "resnet20-cifar"


@pytest.fixture
def images(folder):
    """A folder of eight small images of noise."""
    generator = torch.Generator().manual_seed(0)
    (folder / "images").mkdir()
    for index in range(8):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=generator).to(torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / "images" / f"{index}.png")
    return "images"


def test_a_folder_of_images_starts_it_warm_and_the_report_says_so(run, images):
    outcome = run("convert", NET, "--calibration", images, "--seed", "3", "-o", "out")
    assert outcome.code == 0
    assert "warm start from 8 images, no labels: 19 layers" in outcome.out
    assert any(layer.order is not None for layer in ghosts(ghostify.load("out")))


def ghosts(network):
    return [m for m in network.modules() if isinstance(m, ghostify.GhostConv2d)]


@pytest.mark.parametrize("options", [("--dry-run",), ("-o", "out")])
def test_a_target_of_macs_chooses_an_s_for_each_layer(run, images, options):
    outcome = run(
        "convert", NET, "--calibration", images, "--target-macs", "0.5", "--json", "-", *options
    )
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert report["after"]["macs"] <= 0.5 * report["before"]["macs"]
    # s=2 everywhere leaves more.
    assert 4 in {layer["s"] for layer in report["layers"]}


@pytest.mark.parametrize("mode", ["c-ghost", "cg-ghost", "auto"])
def test_a_target_of_macs_and_one_of_params_are_both_kept(run, images, mode):
    outcome = run(
        "convert", NET, "--calibration", images, "--mode", mode, "--target-macs", "0.7",
        "--target-params", "0.6", "--json", "-", "-o", "out",
    )  # fmt: skip
    assert outcome.code == 0
    report = json.loads(outcome.out)
    assert report["after"]["macs"] <= 0.7 * report["before"]["macs"]
    assert report["after"]["params"] <= 0.6 * report["before"]["params"]
    assert ghostify.report(ghostify.load("out")).after.params == report["after"]["params"]


def test_data_free_needs_no_images(run):
    outcome = run("convert", NET, "--calibration", "data-free")
    assert outcome.code == 0
    assert "data-free" in outcome.out


@pytest.mark.parametrize(
    "options",
    [
        ("--reconstruct",),
        ("--seed", "1"),
        ("--calibration", "nowhere"),
        ("--calibration", "images", "--minutes", "1"),
        ("--calibration", "data-free", "--reconstruct"),
        ("--calibration", "images", "--calibration-samples", "0"),
        ("--calibration", "images", "--reconstruct", "--minutes", "-1"),
        ("--target-macs", "0.5"),
        ("--calibration", "images", "--target-macs", "0.1"),
        ("--calibration", "images", "--target-macs", "2"),
        ("--calibration", "images", "--target-macs", "0.6", "--s", "4"),
        ("--calibration", "images", "--target-params", "0.001"),
        ("--calibration", "data-free", "--target-params", "0.6"),
        ("--mode", "auto"),
    ],
)
def test_options_that_make_no_sense_end_in_one_sentence(run, images, options):
    outcome = run("convert", NET, *options)
    assert outcome.code == 2
    assert outcome.err.startswith("ghostify: ")
    assert outcome.err.count("\n") == 1


DATA = """
import torch
from torch import nn

def loader():
    print("reading")
    return [(torch.rand(8, 1, 64), torch.zeros(8)) for _ in range(2)]

def build():
    return nn.Sequential(nn.Conv1d(1, 16, 3), nn.ReLU(), nn.Conv1d(16, 16, 3))
"""


def test_data_that_a_function_gives_start_it_warm(run, folder):
    (folder / "task.py").write_text(DATA)
    outcome = run("convert", "task.py:build", "--calibration", "task.py:loader", "--json", "-")
    assert outcome.code == 0
    assert "warm start from 16" in json.dumps(json.loads(outcome.out))


def test_a_function_that_is_not_there_is_refused_in_a_sentence(run, folder):
    (folder / "task.py").write_text(DATA)
    outcome = run("convert", "task.py:build", "--calibration", "task.py:load", "-o", "out")
    assert (outcome.code, outcome.out) == (2, "")
    assert "'load'" in outcome.err and not (folder / "out").exists()
