"""``ghostify evaluate``: accuracy on a folder, as text and files."""

from __future__ import annotations

import json

import pytest

from tests.cli.test_finetune_command import write_images


@pytest.fixture
def images(folder):
    """Two images of each of ten classes."""
    return write_images(folder / "images" / "test", 10, 2)


def test_a_saved_network_is_evaluated(run, saved, images):
    outcome = run("evaluate", saved, "--data", "images")
    assert outcome.code == 0
    assert outcome.out.startswith("top-1 ") and "20 images" in outcome.out.replace("\n", " ")


def test_json_goes_to_stdout_alone(run, saved, images):
    outcome = run("evaluate", saved, "--data", images, "--json", "-", "--samples", 7)
    data = json.loads(outcome.out)
    assert data["images"] == 7 and data["top1"]["images"] == 7


def test_markdown_goes_to_a_file(run, saved, images, folder):
    assert run("evaluate", saved, "--data", images, "--markdown", "a.md", "-q").out == ""
    assert "| top-1 |" in (folder / "a.md").read_text()


OWN = """
import torch

def images():
    return torch.rand(5, 3, 32, 32), torch.arange(5)

def outputs(network, batches):
    return {"samples": sum(len(network(x)) for x, y in batches), "least": -1}
"""


def test_a_metric_and_data_of_ones_own_come_from_a_file(run, saved, folder):
    (folder / "task.py").write_text(OWN)
    asked = ("--data", "task.py:images", "--metric", "task.py:outputs", "--samples", 3)
    outcome = run("evaluate", saved, *asked)
    assert outcome.code == 0, outcome.err
    assert outcome.out.strip() == "samples 3.0000, least -1.0000"
    data = json.loads(run("evaluate", saved, *asked, "--json", "-").out)
    assert data["figures"] == {"samples": 3, "least": -1}


@pytest.mark.parametrize("args, words", [
    (("--data", "nowhere"), ("nowhere", "no folder")),
    (("--data", "images", "--weights", "w.pt"), ("saved folder", "--weights")),
    (("--data", "few"), ("3 classes", "10 outputs")),
    (("--data", "nowhere.py:images"), ("--data=nowhere.py:images: nowhere.py is no file",)),
    (("--data", "images", "--metric", "recall"), ("--metric=recall", "file.py:function")),
    (("--data", "images", "--precision", "int4"), ("precision='int4'",)),
    (("--data", "images", "--json", "no/such/file"), ("no folder no/such",)),
])  # fmt: skip
def test_bad_input_is_one_sentence(run, saved, images, folder, args, words):
    write_images(folder / "few", 3, 1)
    outcome = run("evaluate", saved, *args)
    assert outcome.code == 2 and outcome.out == ""
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    assert all(word in outcome.err for word in words), outcome.err
