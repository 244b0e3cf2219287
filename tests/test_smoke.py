"""The first things that anyone does: what CI runs with the oldest and the newest versions.

They are marked slow, since the rest of the default suite has all of it with one set of versions.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import ghostify
from ghostify.verification import CHECKS

pytestmark = [pytest.mark.smoke, pytest.mark.slow]
README = Path(__file__).resolve().parents[1] / "README.md"


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed command of this environment."""
    words = shlex.split(command)
    words[0] = str(Path(sys.executable).with_name(words[0]))
    return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)


def test_the_first_command_of_the_readme_converts_and_its_folder_loads(tmp_path):
    block = re.findall(r"^```bash\n(.*?)\n", README.read_text(encoding="utf-8"), re.MULTILINE)[0]
    convert = block.split("&&")[-1].strip()
    assert convert.startswith("ghostify convert resnet50") and convert.endswith("-o out")
    done = shell(convert, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "53 layers replaced" in done.stdout
    network = ghostify.load(tmp_path / "out").eval()
    ghostify.save(network, tmp_path / "again")
    again = ghostify.load(tmp_path / "again").eval()
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(again(image), network(image))


def test_every_self_check_passes_none_is_skipped(tmp_path):
    done = shell("ghostify convert resnet20-cifar --mode c-ghost --s 2 -q --self-check", tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "self-check" in line]
    assert len(lines) == len(CHECKS)
    for name, line in zip(CHECKS, lines, strict=True):
        assert re.search(rf"self-check: {re.escape(name)} +ok\b", line), line
