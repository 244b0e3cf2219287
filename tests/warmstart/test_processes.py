"""Two processes' warm start is that of one: each has its share of the images."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = """
import os, sys, torch, ghostify
from torch import nn

if "RANK" in os.environ:
    torch.distributed.init_process_group("gloo")
torch.manual_seed(0)
network = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
    nn.Conv2d(16, 24, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(24, 8, 1),
).eval()
images = torch.randn(38, 3, 16, 16, generator=torch.Generator().manual_seed(1))
minutes = float(sys.argv[2])
found = ghostify.convert(
    network, input_size=(3, 16, 16), calibration=images, reconstruct_minutes=minutes
)
rank = os.environ.get("RANK", "alone")
notes = ghostify.report(found).notes
torch.save({"state": found.state_dict(), "notes": notes}, f"{sys.argv[1]}/{rank}.pt")
"""


def run(folder: Path, minutes: float, *names: str) -> list[dict]:
    script = folder / "fit.py"
    script.write_text(SCRIPT)
    start = [sys.executable]
    if len(names) > 1:
        start = ["torchrun", "--standalone", "--nproc-per-node", str(len(names))]
    subprocess.run([*start, str(script), str(folder), str(minutes)], check=True, timeout=200)
    return [torch.load(folder / f"{name}.pt") for name in names]


def test_two_processes_fit_what_one_fits(tmp_path: Path) -> None:
    (alone,) = run(tmp_path, 0.0, "alone")
    for each in run(tmp_path, 0.0, "0", "1"):
        assert any("38 images" in note for note in each["notes"])
        for name, tensor in alone["state"].items():
            torch.testing.assert_close(each["state"][name], tensor, rtol=1e-3, atol=1e-4)


def test_processes_that_reconstruct_stay_the_same(tmp_path: Path) -> None:
    one, other = run(tmp_path, 0.02, "0", "1")
    assert any("steps" in note for note in one["notes"])
    for name, tensor in one["state"].items():
        assert torch.equal(tensor, other["state"][name])


@pytest.mark.parametrize("count", [1, 2])
def test_the_command_runs_under_torchrun(tmp_path: Path, count: int) -> None:
    images = torch.randint(255, (6, 16, 16, 3), dtype=torch.uint8)
    from PIL import Image

    for i, image in enumerate(images):
        Image.fromarray(image.numpy()).save(tmp_path / f"{i}.png")
    command = ["torchrun", "--standalone", "--nproc-per-node", str(count), "-m", "ghostify"]
    done = subprocess.run(
        [*command, "convert", "resnet20-cifar", "--calibration", str(tmp_path), "-o", "out"],
        cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("warm start from 6 images") == 1
    assert done.stderr.count("saved to out") == 1


@pytest.mark.parametrize("failing", ["0", "1", "01"])
def test_an_error_is_said_once_whichever_process_it_is_in(tmp_path: Path, failing: str) -> None:
    (tmp_path / "net.py").write_text(
        "import os, torch\n"
        "def net():\n"
        f"    if os.environ['RANK'] in '{failing}':\n"
        "        raise RuntimeError('this disk is gone')\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 64, 3))\n"
    )
    command = ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "ghostify", "convert"]
    command += ["net.py:net", "--trust", "--input-size", "3x8x8", "-o", "out"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode != 0
    assert done.stderr.count("this disk is gone") == 1, done.stderr
