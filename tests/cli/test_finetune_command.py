"""``ghostify finetune``: from a saved conversion to a tuned one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import ghostify


def write_images(folder: Path, classes: int, each: int) -> Path:
    """Class folders with images of noise, 32 x 32."""
    chance = np.random.default_rng(0)
    for number in range(classes):
        (folder / f"class{number}").mkdir(parents=True)
        for name in range(each):
            pixels = chance.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class{number}" / f"{name}.png")
    return folder


@pytest.fixture
def images(folder):
    """Training and test images of ten classes."""
    write_images(folder / "images" / "train", 10, 3)
    write_images(folder / "images" / "test", 10, 1)
    return folder / "images"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights of the original."""
    file = tmp_path_factory.mktemp("weights") / "w.safetensors"
    save_file(ghostify.build("resnet20-cifar").state_dict(), file)
    return file


SHORT = ("--steps", 3, "--batch-size", 10, "--log-steps", 1)


def test_a_saved_conversion_is_tuned_and_saved(run, saved, images, weights, folder):
    asked = ("--data", images, "--teacher-weights", weights, *SHORT, "-o", "tuned")
    outcome = run("finetune", saved, *asked)
    assert outcome.code == 0, outcome.err
    assert "tuned 3 of 3 steps by labels, the teacher's logits, its features" in outcome.out
    assert "validation: top-1" in outcome.out and "step 3/3" in outcome.err
    assert outcome.err.splitlines()[-1] == "ghostify: saved to tuned"
    before, after = ghostify.load(saved).state_dict(), ghostify.load(folder / "tuned").state_dict()
    assert before.keys() == after.keys()
    assert not torch.equal(before["conv1.primary.weight"], after["conv1.primary.weight"])
    assert run("report", "tuned").code == 0


def test_quiet_prints_nothing(run, saved, images):
    outcome = run("finetune", saved, "--data", images, *SHORT, "-o", "tuned", "-q")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_a_teacher_may_be_another_network_or_a_folder(run, saved, images):
    first = run("finetune", saved, "--data", images, "--teacher", saved, *SHORT, "-o", "one")
    assert first.code == 0 and "features are not distilled" in first.out.replace("\n", " ")


REFUSED = [
    (("--data", "nowhere"), ("nowhere", "no folder")),
    (("--data", "few"), ("3 classes", "10 outputs")),
    (("--data", "images", "--teacher", "resnet20-cifar"), ("random weights", "--teacher-weights")),
    (("--data", "images", "--teacher-weights", "w.pt"), ("w.pt", "no file")),
    (("--data", "images", "--lr", "-1"), ("lr=-1",)),
    (("--data", "images", "--optimizer", "lion"), ("'lion'", "muon, sgd, adamw")),
    (("--data", "images/train/class0"), ("no labels", "--teacher")),
    (("--data", "images", "--batch-size", "64"), ("30 images", "--batch-size=64")),
    (("--data", "images", "-o", "images"), ("images holds other things",)),
    (("--data", "images", "--input-size", "big"), ("--input-size=big",)),
]


@pytest.mark.parametrize("args, words", REFUSED)
def test_bad_input_is_one_sentence_and_nothing_is_written(run, saved, images, folder, args, words):
    write_images(folder / "few", 3, 4)
    before = set(folder.rglob("*"))
    rest = [x for x in (*SHORT, "-o", "tuned") if not ("--batch-size" in args and x == 10)]
    rest = [x for x in rest if not ("--batch-size" in args and x == "--batch-size")]
    outcome = run("finetune", saved, *rest, *args)
    assert outcome.code == 2 and outcome.out == "", outcome
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    assert set(folder.rglob("*")) == before


OWN = """
import torch
import torch.nn.functional as F

def images():
    generator = torch.Generator().manual_seed(0)
    return [(torch.rand(3, 32, 32, generator=generator), n % 10) for n in range(20)]

ready = images()

def loss(model, batch):
    scores = model(batch[0])
    return {"scores": F.cross_entropy(scores, batch[1]), "size": scores.square().mean()}

def recall(model, batches):
    return {"recall": sum((model(x).argmax(1) == y).float().mean() for x, y in batches)}

def broken(*_):
    raise KeyError("boxes")

number = 3
"""


def test_a_loss_a_metric_and_data_of_ones_own_come_from_a_file(run, saved, weights, folder):
    (folder / "task.py").write_text(OWN)
    asked = ("--loss", "task.py:loss", "--metric", "task.py:recall", "--val", "task.py:ready")
    outcome = run(
        "finetune", saved, "--data", "task.py:images", *asked, "--teacher-weights", weights,
        *SHORT, "-o", "tuned",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    assert "tuned 3 of 3 steps by your loss, the teacher's features at" in outcome.out
    assert "validation: recall " in outcome.out and "the weights are those of step" in outcome.out
    assert "own/scores" in outcome.err and "recall" in outcome.err
    assert ghostify.load(folder / "tuned")


@pytest.mark.parametrize("args, words", [
    (("--loss", "loss"), ("--loss=loss", "file.py:function")),
    (("--loss", "nowhere.py:loss"), ("--loss=nowhere.py:loss: nowhere.py is no file",)),
    (("--loss", "task.py:los"), ("task.py has no 'los'", "loss")),
    (("--loss", "task.py:number"), ("--loss=task.py:number is a int",)),
    (("--loss", "task.py:broken"), ("broken", "KeyError")),
    (("--loss", "task.py:loss", "--data", "task.py:broken"), ("--data=task.py:broken fails",)),
    (("--loss", "task.py:loss", "--data", "task.py:number"), ("A int is no data",)),
    (("--metric", "task.py:recall"), ("metric", "--val")),
])  # fmt: skip
def test_what_a_file_does_not_give_is_one_sentence(run, saved, folder, args, words):
    (folder / "task.py").write_text(OWN)
    before = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    outcome = run("finetune", saved, "--data", "task.py:images", *SHORT, "-o", "tuned", *args)
    assert outcome.code == 2 and outcome.out == "", outcome
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    assert all(word in outcome.err for word in words), outcome.err
    after = {path for path in folder.rglob("*") if "__pycache__" not in path.parts}
    assert after == before


def test_ctrl_c_ends_with_a_checkpoint_and_resume_goes_on(run, saved, images, folder):
    command = [
        str(Path(sys.executable).with_name("ghostify")), "finetune", str(saved), "--data",
        str(images), "--steps", "100000", "--batch-size", "10", "-o", "tuned",
        "--checkpoint-steps", "5",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    state = folder / "tuned" / "training" / "checkpoint.pt"
    patience = time.monotonic() + 120
    while not state.exists() and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith("ghostify: stopped after step ") and "--resume goes on" in last
    step = int(last.split()[4])
    assert torch.load(state, weights_only=True)["step"] == step
    asked = ("finetune", saved, "--data", images, "--batch-size", 10, "-o", "tuned")
    refused = run(*asked, "--steps", 100000)
    assert refused.code == 2 and f"step {step} of 100000" in refused.err
    other = run(*asked, "--steps", step + 2, "--resume")
    assert other.code == 2 and "steps=100000" in other.err


def test_two_processes_tune_together_and_one_speaks(saved, images, folder):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
         "-m", "ghostify", "finetune", str(saved), "--data", str(images), "--steps", "2",
         "--batch-size", "10", "--log-steps", "1", "-o", "tuned"],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("tuned 2 of 2 steps") == 1
    assert done.stderr.count("step 2/2") == done.stderr.count("saved to tuned") == 1
    assert ghostify.load(folder / "tuned")
