"""A loss and a metric of a caller's own in several processes: what one process gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, sys, torch, ghostify
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        )
        self.head, self.idle = nn.Conv2d(16, 3, 1), nn.Conv2d(16, 3, 1)
    def forward(self, x):
        return {"out": self.head(self.body(x))}

def loss(model, batch):
    x, masks = batch
    return {"pixels": F.cross_entropy(model(x)["out"], masks), "half": 0.5 * model(x)["out"].mean()}

def metric(model, batches):
    return {"right": sum((model(x)["out"].argmax(1) == y).float().mean() for x, y in batches)}

torch.manual_seed(0)
teacher = Net()
with torch.no_grad():  # statistics that fit, as a trained network has them
    for _ in range(30):
        teacher(torch.randn(16, 3, 8, 8))
student = ghostify.convert(teacher, s=2, input_size=(3, 8, 8))
generator = torch.Generator().manual_seed(1)
images = torch.randn(32, 3, 8, 8, generator=generator)
data = images, torch.randint(3, (32, 8, 8), generator=generator)
ranks = int(os.environ.get("WORLD_SIZE", 1))
if sys.argv[2] == "items":
    options = {"batch_size": 8}
else:  # a loader's batch is one process's: two parts of a step in one process are two processes
    data = DataLoader(TensorDataset(*data), batch_size=4)
    options = {"accumulate": 2 // ranks, "norms": "frozen"}
tuned = ghostify.finetune(
    student, data, teacher=teacher, loss=loss, metric=metric, val=data,
    # Muon would make rounding larger.
    steps=6, optimizer="sgd", lr=0.02, features=1.0, log_steps=2, ema=0.9,
    output=sys.argv[1] + "/out", **options,
)
torch.save({"state": tuned.model.state_dict(), "loss": tuned.last.loss, "own": dict(tuned.last.own),
            "best": tuned.best_step, "value": tuned.validation.value, "points": len(tuned.points)},
           f"{sys.argv[1]}/{os.environ.get('RANK', 0)}.pt")
"""


@pytest.mark.parametrize("kind", ["items", "loader"])
def test_two_processes_give_what_one_gives(tmp_path: Path, kind: str) -> None:
    script = tmp_path / "tune.py"
    script.write_text(SCRIPT)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    found = {}
    for name, head in (("one", [sys.executable]), ("two", [*torchrun, "--nproc-per-node", "2"])):
        place = tmp_path / name
        place.mkdir()
        done = subprocess.run(
            [*head, str(script), str(place), kind], capture_output=True, text=True, check=False,
            timeout=240,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        found |= {f"{name} {file.stem}": torch.load(file) for file in place.glob("*.pt")}
    one, first, second = found["one 0"], found["two 0"], found["two 1"]
    assert one["points"] > 0 and one["best"] == first["best"] == second["best"]
    assert first["loss"] == second["loss"] == pytest.approx(one["loss"], rel=1e-3)
    assert first["value"] == second["value"] == pytest.approx(one["value"], rel=1e-3)
    for key, value in one["state"].items():
        assert torch.equal(first["state"][key], second["state"][key]), key
        torch.testing.assert_close(first["state"][key], value, rtol=1e-3, atol=1e-4, msg=key)
    rows = (tmp_path / "two" / "out" / "training" / "metrics.csv").read_text().splitlines()
    assert rows[0].split(",")[4:7] == ["own/pixels", "own/half", "features"]
    assert [int(row.split(",")[0]) for row in rows[1:]] == [2, 4, 6], "one process writes"
