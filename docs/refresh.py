"""Run what README, docs and notebooks show, and write the outputs of that run into them.

    python docs/refresh.py            # all pages, all notebooks whose outputs do not vary
    python docs/refresh.py --check    # change nothing; exit 1 where something shown is not current

In Markdown it runs every ``console`` block (each line that starts with ``$`` is a command, what
follows is its standard output) and every ``python`` block that starts with ``>>>``. Those of a page
share an empty folder and their names. Tests do the same, and run the other ``python`` blocks too; a
sketch that needs what a reader has at home is a ``py`` block.
"""

from __future__ import annotations

import argparse
import contextlib
import doctest
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
NOTEBOOKS = tuple(sorted((REPOSITORY / "examples").glob("*.ipynb")))

CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SESSION = re.compile(r"^```python\n(>>> .*?)^```$", re.MULTILINE | re.DOTALL)


class _Recorder(doctest.DocTestRunner):
    """Runs a session, and keeps what each line showed instead of judging it."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[str] = []

    def report_start(self, out: Any, test: Any, example: Any) -> None:
        pass

    def report_success(self, out: Any, test: Any, example: doctest.Example, got: str) -> None:
        first, *others = example.source.splitlines()
        lines = [f">>> {first}", *(f"... {line}".rstrip() for line in others)]
        lines += [line.rstrip() or "<BLANKLINE>" for line in got.splitlines()]
        self.shown += lines

    report_failure = report_success

    def report_unexpected_exception(self, out: Any, test: Any, example: Any, info: Any) -> None:
        raise RuntimeError(f"{example.source!r} fails") from info[1]


@contextlib.contextmanager
def inside(folder: str | Path) -> Iterator[None]:
    """A folder as the working directory (contextlib has it from Python 3.11 on)."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def refresh_page(text: str) -> str:
    """A page with the present outputs of its commands and sessions."""
    names: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        text = CONSOLE.sub(lambda block: _refresh_console(block[1], Path(folder)), text)
        with inside(folder):
            return SESSION.sub(lambda block: _refresh_session(block[1], names), text)


def _refresh_session(block: str, names: dict[str, Any]) -> str:
    test = doctest.DocTestParser().get_doctest(block, names, "session", None, 0)
    recorder = _Recorder()
    recorder.run(test, out=lambda text: None, clear_globs=False)
    names.update(test.globs)
    return "\n".join(["```python", *recorder.shown, "```"])


def _refresh_console(block: str, folder: Path) -> str:
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    shown = "".join(f"$ {command}\n{_run(command, folder)}" for command in commands)
    return f"```console\n{shown}```"


def _run(command: str, folder: Path) -> str:
    """What a command writes to standard output, in a terminal of 80 columns without colours."""
    paths = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": paths, "COLUMNS": "80", "NO_COLOR": "1"}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode > 1:
        raise RuntimeError(f"{command!r} ends with {done.returncode}: {done.stderr.strip()}")
    return "".join(f"{line.rstrip()}\n" for line in done.stdout.splitlines())


def refresh_notebook(file: Path) -> Any:
    """A notebook with the outputs of a new run."""
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(notebook, timeout=300, record_timing=False, coalesce_streams=True).execute()
    return notebook


def outputs_vary(notebook: Any) -> bool:
    """Whether a notebook says that its outputs differ from run to run: times, real data or none."""
    return bool(notebook.metadata.get("ghostify", {}).get("outputs_vary"))


def outputs(notebook: Any) -> list[list[Any]]:
    """What each code cell shows; not what libraries warn of meanwhile, which machines decide."""
    return [
        [o.get("text") or o.get("data") for o in cell.outputs if o.get("name") != "stderr"]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


PRINTERS = {"rich": (15,), "typer": (0, 29)}
"""Versions from which on tables and help are laid out as on the pages."""


def printed_alike() -> bool:
    """Whether what prints here lays tables and help out as what the pages were made with."""
    found = {name: importlib.metadata.version(name).split(".") for name in PRINTERS}
    return all(tuple(map(int, found[n][: len(least)])) >= least for n, least in PRINTERS.items())


def stale(files: Iterable[Path], write: bool) -> list[Path]:
    """The files that show something else than a run does, written anew if asked for."""
    found = []
    for file in files:
        if file.suffix == ".ipynb":
            if outputs_vary(nbformat.read(file, as_version=4)):
                continue
            new = refresh_notebook(file)
            if outputs(new) == outputs(nbformat.read(file, as_version=4)):
                continue
            text = nbformat.writes(new) + "\n"
        else:
            text = refresh_page(file.read_text(encoding="utf-8"))
            if text == file.read_text(encoding="utf-8"):
                continue
        found.append(file)
        if write:
            file.write_text(text, encoding="utf-8")
    return found


def main() -> None:
    """Refresh, or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing")
    arguments = parser.parse_args()
    found = stale((*PAGES, *NOTEBOOKS), write=not arguments.check)
    for file in found:
        print(
            f"{'not current' if arguments.check else 'refreshed'}: {file.relative_to(REPOSITORY)}"
        )
    sys.exit(1 if found and arguments.check else 0)


if __name__ == "__main__":
    main()
