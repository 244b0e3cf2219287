"""What README and docs show is what a run shows; what they link to and list is there."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.main import get_command

import ghostify
from ghostify import saving as folders
from ghostify.api import preview
from ghostify.cli import app
from ghostify.cli.check import SCHEMA as CHECK_SCHEMA
from ghostify.reports.bounds import Bounds
from ghostify.reports.conversion import SCHEMA as REPORT_SCHEMA
from ghostify.saving import recipe as recipes

REPOSITORY = Path(__file__).resolve().parents[1]


def _script(path: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(path).stem, REPOSITORY / path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = _script("docs/refresh.py")
PAGES = [*refresh.PAGES, REPOSITORY / "CONTRIBUTING.md", REPOSITORY / "CHANGELOG.md"]
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


def _blocks(page: Path, language: str) -> list[str]:
    pattern = rf"^```{language}\n(.*?)^```$"
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@each_page
def test_commands_and_sessions_show_what_the_page_shows(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    new = refresh.refresh_page(text)
    if not refresh.printed_alike():
        pytest.skip("older versions of rich and typer lay tables and help out otherwise")
    assert new == text, "run: python docs/refresh.py"


@each_page
def test_python_of_the_page_runs(page: Path, tmp_path: Path) -> None:
    names: dict[str, Any] = {}
    for number, block in enumerate(_blocks(page, "python")):
        if block.startswith(">>>"):
            continue  # its output is compared above
        with refresh.inside(tmp_path), contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"{page.name}, python block {number + 1}", "exec"), names)


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            assert anchor in _anchors(file), target


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_page_of_the_command_line_has_the_help_of_every_command() -> None:
    text = (REPOSITORY / "docs" / "cli.md").read_text(encoding="utf-8")
    commands = get_command(app).commands  # type: ignore[attr-defined]
    assert commands
    for name in commands:
        assert f"$ ghostify {name} --help\n" in text


def test_ci_runs_the_two_commands_of_the_readme() -> None:
    setup, tests = _blocks(REPOSITORY / "README.md", "bash")[0].splitlines()
    lines = (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert setup in lines
    assert tests in lines


def _keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield str(key)
            yield from _keys(item)
    elif isinstance(value, list):
        for item in value:
            yield from _keys(item)


def _documented(page: str) -> set[str]:
    return set(re.findall(r"`([^`\n]+)`", (REPOSITORY / "docs" / page).read_text(encoding="utf-8")))


def test_every_key_of_a_report_is_described() -> None:
    network = ghostify.build("resnet20-cifar")
    report = preview(network, mode="cg-ghost", keep="layer1")
    assert report is not None and report.replaced and report.kept and report.rebuilt
    assert {REPORT_SCHEMA, *_keys(report.to_dict())} <= _documented("report.md")


def test_every_key_of_a_verdict_is_described(tmp_path: Path) -> None:
    command = ["ghostify", "check", "resnet20-cifar", "--min-macs-ratio", "1.5", "--json"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = Bounds.__dataclass_fields__
    assert {CHECK_SCHEMA, *_keys(yaml.safe_load(shown)), *names} <= _documented("report.md")


def test_every_key_of_a_recipe_is_described(tmp_path: Path) -> None:
    converted = ghostify.convert("resnet20-cifar", mode="cg-ghost", keep="layer1")
    ghostify.save(converted, tmp_path)
    recipe = yaml.safe_load((tmp_path / folders.RECIPE).read_text(encoding="utf-8"))
    for conversion in recipe["conversions"]:
        conversion["settings"] = None  # described where the settings are
    assert {recipes.FORMAT, *_keys(recipe)} - {"ghostify", "torch"} <= _documented("recipe.md")


def test_the_workflow_for_ci_passes_on_a_network_of_ones_own(tmp_path: Path) -> None:
    (workflow,) = (yaml.safe_load(b) for b in _blocks(REPOSITORY / "docs" / "ci.md", "yaml"))
    steps = workflow["jobs"]["conversion"]["steps"]
    commands = [step["run"] for step in steps if "name" in step]
    assert sum("ghostify check" in command for command in commands) == 1
    network = "nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))"
    code = f"from torch import nn\n\n\ndef build():\n    return {network}\n"
    (tmp_path / "nets.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    for command in commands:
        subprocess.run(["bash", "-ec", command], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("## nets.py:build")


def test_the_tables_of_benchmarks_are_those_that_the_script_writes() -> None:
    text = (REPOSITORY / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    written = text.partition("<!-- speed:begin -->")[2].partition("<!-- speed:end -->")[0]
    for title in ("Converting ResNet50", "Growth with depth", "Counting", "Memory of a conversion"):
        assert f"### {title}" in written
