"""Measured time: who is compared with whom, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import ghostify
from ghostify.errors import GhostifyError


def test_every_combination_is_measured_beside_the_first_network() -> None:
    small = ghostify.build("resnet20-cifar")
    found = ghostify.benchmark(small, ghostify.convert(small, s=4), batch=[1, 2], seconds=0)
    assert [(row.batch, row.network) for row in found.rows] == [
        (1, "resnet20-cifar"), (1, "resnet20-cifar, converted"),
        (2, "resnet20-cifar"), (2, "resnet20-cifar, converted"),
    ]  # fmt: skip
    assert all(row.form in ("channels_last", "contiguous") for row in found.rows)
    assert [row.ratio for row in found.rows[::2]] == [1, 1]
    assert all(row.low <= row.ratio <= row.high for row in found.rows)
    assert found.inputs == "3x32x32"
    assert json.loads(found.to_json())["rows"][0]["runtime"] == "eager"
    assert "resnet20-cifar, converted" in found.to_markdown()


def test_a_saved_conversion_alone_is_compared_with_its_original(tmp_path: Path) -> None:
    folder = ghostify.save(ghostify.convert("resnet20-cifar", s=4), tmp_path / "out")
    found = ghostify.benchmark(ghostify.load(folder), seconds=0)
    assert [row.network for row in found.rows] == ["resnet20-cifar", "resnet20-cifar, converted"]


def test_the_networks_stay_as_they_are() -> None:
    network = ghostify.build("resnet20-cifar").train()
    threads = torch.get_num_threads()
    ghostify.benchmark(network, seconds=0, threads=2)
    assert network.training and torch.get_num_threads() == threads


def test_onnx_runtime_runs_the_inference_form() -> None:
    pytest.importorskip("onnxruntime")
    found = ghostify.benchmark("resnet20-cifar", runtime="onnxruntime", seconds=0)
    assert (found.rows[0].runtime, found.rows[0].form) == ("onnxruntime", "")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"runtime": "onnxrun"}, "onnxruntime"),
        ({"batch": 0}, "batch=0"),
        ({"threads": 0}, "threads=0"),
        ({"input_size": (3, 0, 8)}, "input_size"),
    ],
)
def test_bad_input_is_one_sentence(given: dict, words: str) -> None:
    with pytest.raises(GhostifyError, match=words):
        ghostify.benchmark("resnet20-cifar", **given)


def test_a_lone_conversion_of_unknown_origin_needs_its_original() -> None:
    network = ghostify.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), input_size=(3, 8, 8))
    with pytest.raises(GhostifyError, match="give the original before it"):
        ghostify.benchmark(network)
