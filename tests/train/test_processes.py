"""Two processes on this machine do what one does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, sys, torch, ghostify
import torch.distributed as dist
from torch import nn
from ghostify.tuning.global_norms import GlobalNorms

def tune():
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5),
    )
    # Without part in the output, as an auxiliary head whose scores are not used.
    teacher.register_parameter("idle", nn.Parameter(torch.ones(3)))
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(70, 3, 16, 16, generator=generator) * 2 - 1
    labels = torch.randint(5, (70,), generator=generator)
    with torch.no_grad():  # statistics that fit, as a trained network has them
        for _ in range(30):
            teacher(images)
    student = ghostify.convert(teacher, s=2, input_size=(3, 16, 16))
    with torch.no_grad():
        for _ in range(30):
            student.train()(images)
    return ghostify.finetune(
        student, (images, labels), teacher=teacher, val=(images, labels), epochs=3, batch_size=16,
        lr=0.02, ce=1.0, features=1.0, clip=1.0, log_steps=4, ema=0.9, input_size=(3, 16, 16),
        output=sys.argv[1] + "/out",
    )

tuned = tune()
rank = int(os.environ.get("RANK", 0))
torch.save(
    {"state": tuned.model.state_dict(), "loss": tuned.last.loss,
     "top1": tuned.validation.top1.right, "images": tuned.validation.images,
     "val_loss": tuned.validation.loss},
    f"{sys.argv[1]}/{rank}.pt",
)
if dist.is_initialized():
    torch.manual_seed(5)
    x, weights = torch.randn(8, 6, 5, 5) * 3 + 1, torch.randn(8, 6, 5, 5)
    norm, part = nn.BatchNorm2d(6), slice(4 * rank, 4 * rank + 4)
    mine = x[part].clone().requires_grad_()
    with GlobalNorms():
        out = norm(mine)
    (out * weights[part]).sum().backward()
    whole, plain = x.clone().requires_grad_(), nn.BatchNorm2d(6)
    (plain(whole) * weights).sum().backward()
    grad = norm.weight.grad.clone()
    dist.all_reduce(grad)
    torch.testing.assert_close(out, plain(x)[part])
    torch.testing.assert_close(mine.grad, whole.grad[part], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
    fresh = nn.BatchNorm2d(6)
    fresh(x)
    torch.testing.assert_close(norm.running_var, fresh.running_var)
    torch.testing.assert_close(norm.running_mean, fresh.running_mean)
    with GlobalNorms():
        torch.testing.assert_close(norm.eval()(x), nn.functional.batch_norm(
            x, norm.running_mean, norm.running_var, norm.weight, norm.bias))
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """What one process came to, and each of two."""
    folder = tmp_path_factory.mktemp("processes")
    script = folder / "tune.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    found = {}
    for name, head in (("one", [sys.executable]), ("two", [*torchrun, "--nproc-per-node", "2"])):
        place = folder / name
        place.mkdir()
        done = subprocess.run(
            [*head, str(script), str(place)], capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        for file in place.glob("*.pt"):
            found[f"{name} {file.stem}"] = torch.load(file)
        found[name] = {"place": place}
    return found


def test_two_processes_tune_to_the_weights_of_one(results):
    one, two = results["one 0"]["state"], results["two 0"]["state"]
    assert one.keys() == two.keys()
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=2e-4, atol=2e-5, msg=key)


def test_all_processes_end_with_the_same_weights(results):
    first, second = (results[f"two {rank}"]["state"] for rank in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_losses_and_accuracy_are_those_of_all_processes(results):
    one, first, second = (results[name] for name in ("one 0", "two 0", "two 1"))
    assert first["loss"] == second["loss"] == pytest.approx(one["loss"], rel=1e-4)
    assert first["images"] == one["images"] == 70
    assert first["top1"] == second["top1"] and abs(first["top1"] - one["top1"]) <= 1
    assert first["val_loss"] == pytest.approx(one["val_loss"], rel=1e-4)


def test_one_process_writes(results):
    place: Path = results["two"]["place"]
    rows = (place / "out" / "training" / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "4", "8", "12"]
    assert len(list((place / "out").glob("model-*.safetensors"))) == 1
