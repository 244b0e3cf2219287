"""The floors of the package: the table in the docs, the linter's contract, and the imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).resolve().parents[1]
LAYERS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"][
    "importlinter"
]["contracts"][0]["layers"]
FLOORS = [re.findall(r"ghostify\.(\w+)", layer) for layer in LAYERS]


def test_imports_go_down_only() -> None:
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    assert command is not None, "import-linter is an extra of the tests"
    done = subprocess.run(
        [command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


def test_the_table_in_the_docs_has_the_linters_floors() -> None:
    page = (ROOT / "docs" / "inside.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+) \| (.*?) \|", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(len(FLOORS), 0, -1))
    assert [re.findall(r"`(\w+)`", rooms) for _, rooms in rows] == FLOORS


def test_every_room_has_a_floor() -> None:
    package = ROOT / "ghostify"
    modules = {p.stem for p in package.glob("*.py") if not p.name.startswith("_")}
    rooms = {p.parent.name for p in package.glob("*/__init__.py")}
    assert modules | rooms == {room for floor in FLOORS for room in floor}


def test_a_name_has_one_meaning() -> None:
    homes: dict[str, set[str]] = {}
    for path in (ROOT / "ghostify").rglob("*.py"):
        if path.parent.name == "cli":  # a command is called as the verb that it runs
            continue
        for item in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(item, ast.ClassDef | ast.FunctionDef) and not item.name.startswith("_"):
                homes.setdefault(item.name, set()).add(str(path.relative_to(ROOT)))
    assert {name: found for name, found in homes.items() if len(found) > 1} == {}
