"""`ghostify export` and `ghostify bench`."""

from __future__ import annotations

import json

import pytest


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
