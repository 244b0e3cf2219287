"""The examples run, and the notebooks show what a run shows."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
EXAMPLES = REPOSITORY / "examples"


def _data_folder() -> Path:
    named = os.environ.get("GHOSTIFY_DATA")
    return Path(named) if named else REPOSITORY.parent / "shared" / "data"


def _run_cifar10(data: Path) -> str:
    sizes = ["--images", "200", "--training", "128", "--steps", "4"]
    environment = {**os.environ, "GHOSTIFY_DATA": str(data)}
    command = [sys.executable, str(EXAMPLES / "cifar10.py"), *sizes]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout


def _top1(shown: str, row: str) -> float:
    (line,) = (line for line in shown.splitlines() if line.startswith(row))
    return float(line.split()[-2])


def test_the_script_tells_trained_from_converted_on_real_images() -> None:
    data = _data_folder()
    if not (data / "cifar10-jpeg.tar.gz").is_file():
        pytest.skip(f"no cifar10-jpeg.tar.gz in {data}: set GHOSTIFY_DATA")
    shown = _run_cifar10(data)
    alone, fitted = _top1(shown, "converted alone"), _top1(shown, "fitted, no labels")
    assert _top1(shown, "original") > fitted > 40 > 20 > alone
    assert "met: macs ratio is 1.9" in shown
    assert "outputs equal, bit for bit: True" in shown


def test_without_the_data_the_script_says_so_and_goes_on(tmp_path: Path) -> None:
    shown = _run_cifar10(tmp_path)
    assert "not found: resnet20-cifar10.safetensors, cifar10-jpeg.tar.gz" in shown
    assert "outputs equal, bit for bit: True" in shown


@pytest.mark.parametrize("trainer", ["lightning", "transformers"])
def test_a_conversion_is_trained_by_another_trainer(trainer: str, tmp_path: Path) -> None:
    pytest.importorskip(trainer, reason=f"needs ghostify[{trainer}]")
    sizes = ["--images", "64", "--training", "128", "--steps", "4"]
    command = [sys.executable, str(EXAMPLES / f"with_{trainer}.py"), *sizes]
    environment = {**os.environ, "GHOSTIFY_DATA": str(tmp_path)}
    shown = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert "after 4 steps beside its original" in shown
    logs = shown + "".join(file.read_text() for file in tmp_path.rglob("metrics.csv"))
    for name in ("features", "macs_fewer", "time"):
        assert f"ghostify/{name}" in logs


@pytest.mark.parametrize("name, converted, steps, tuning", [
    ("detector", "converted", 80, 40), ("segmentation", "warm start", 150, 50),
])  # fmt: skip
def test_a_network_of_another_task_is_cheaper_and_recovers(
    name: str, converted: str, steps: int, tuning: int
) -> None:
    command = [
        sys.executable,
        str(EXAMPLES / f"{name}.py"),
        "--steps",
        str(steps),
        "--tuning",
        str(tuning),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    head, *rows = (line for line in shown[:4])
    figures = {row[:12].strip(): row[12:].split() for row in rows}
    assert head.split()[:2] == ["params", "MACs"]
    original, before, after = (float(figures[n][2]) for n in ("original", converted, "tuned"))
    assert after > before and after > 0.7 * original, shown
    assert figures["tuned"][:2] == figures[converted][:2] != figures["original"][:2]
    assert "by your loss, the teacher's features at" in "\n".join(shown)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda file: file.stem)
def test_a_notebook_shows_what_a_run_shows(file: Path) -> None:
    refresh = _refresh()
    if refresh.outputs_vary(nbformat.read(file, as_version=4)):
        pytest.skip("it shows times, and runs in a test of its own")
    stored, new = nbformat.read(file, as_version=4), refresh.refresh_notebook(file)
    if not refresh.printed_alike():
        pytest.skip("older versions of rich lay tables out otherwise")
    assert refresh.outputs(new) == refresh.outputs(stored), "run: python docs/refresh.py"


def test_a_network_becomes_a_faster_file_in_twelve_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHOSTIFY_DATA", str(tmp_path))
    monkeypatch.chdir(REPOSITORY)
    refresh = _refresh()
    file = EXAMPLES / "faster_file.ipynb"
    shown = refresh.outputs(refresh.refresh_notebook(file))  # raises where a cell fails
    assert len(shown) <= 12
    assert "saved and loaded; equal, bit for bit: True" in str(shown)
    assert "outputs differ by" in str(shown)
    stored = refresh.outputs(nbformat.read(file, as_version=4))
    assert str(stored).count("image/png") >= 4, "it is stored without its pictures"


def _refresh() -> Any:
    spec = importlib.util.spec_from_file_location("refresh", REPOSITORY / "docs" / "refresh.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
