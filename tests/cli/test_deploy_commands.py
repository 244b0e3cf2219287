"""`ghostify export` and `ghostify bench`."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image


def test_export_writes_a_file_and_says_how_near_it_is(run, saved, folder):
    outcome = run("export", saved, "-o", "net.pt2")
    assert outcome.code == 0 and "net.pt2: pt2" in outcome.out
    assert (folder / "net.pt2").exists()


def test_export_tells_what_is_wrong_in_a_sentence(run, saved, folder):
    for arguments, words in (
        (("-o", "net"), "tells no format"),
        (("-o", "net.pt2", "--batch", "many"), "--batch=many"),
        (("-o", "net.bin", "--format", "onnx2"), "format='onnx2'"),
    ):
        outcome = run("export", saved, *arguments)
        assert (outcome.code, outcome.out) == (2, "") and words in outcome.err
    assert list(folder.glob("net*")) == []


def test_self_check_shows_how_near_each_output_is(run, saved, folder):
    outcome = run("export", saved, "-o", "net.pt2", "--batch", "dynamic", "--self-check")
    assert outcome.code == 0 and "Compared on random inputs" in outcome.out
    assert [line.split()[1] for line in outcome.out.splitlines() if line.strip()[:2] == "0 "] == [
        "2", "3",
    ]  # fmt: skip


def test_export_in_int8_is_calibrated_by_a_folder_of_images(run, saved, folder):
    pytest.importorskip("onnxruntime")
    make_images(folder / "images", 4)
    outcome = run("export", saved, "--int8", "--calibration", "images", "-o", "net.onnx")
    # Random weights and pictures of noise: near enough, or an error that says how far.
    assert outcome.code == 0 and "onnx in int8" in outcome.out, outcome.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "net.onnx", "--int8"), "give --calibration FOLDER"),
        (("-o", "net.pt2", "--calibration-samples", 3), "given without --calibration FOLDER"),
        (("-o", "net.pt2", "--int8", "--calibration", "images"), "pt2 has no int8 here"),
        (("-o", "net.onnx", "--int8", "--calibration", "none"), "none"),
        (("-o", "images/net/net.pt2"), "images/net"),
        (("-o", "images"), "images tells no format"),
        (("-o", "images", "--format", "pt2"), "images"),
    ],
)
def test_export_with_bad_options_is_one_sentence_and_leaves_nothing(
    run, saved, folder, arguments, words
):
    make_images(folder / "images", 2)
    before = sorted(folder.rglob("*"))
    outcome = run("export", saved, *arguments)
    assert (outcome.code, outcome.out) == (2, "") and words in outcome.err
    assert outcome.err.strip().count("\n") <= 2 and "Traceback" not in outcome.err
    assert sorted(folder.rglob("*")) == before


def make_images(folder, count):
    folder.mkdir()
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_bench_compares_a_saved_conversion_with_its_original(run, saved):
    outcome = run("bench", saved, "--seconds", 0, "--json", "-")
    assert outcome.code == 0
    rows = json.loads(outcome.out)["rows"]
    assert [row["network"] for row in rows] == ["resnet20-cifar", "resnet20-cifar, converted"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("--runtime", "no"), "runtime='no'"), (("--threads", "0"), "threads=0")],
)
def test_bench_tells_what_is_wrong_in_a_sentence(run, saved, arguments, words):
    outcome = run("bench", saved, *arguments)
    assert (outcome.code, outcome.out) == (2, "") and words in outcome.err
