"""``ghostify reproduce``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from ghostify.cli import _options as given
from ghostify.cli._terminal import Steps, warn_in_a_line
from ghostify.files import write_text


def reproduce(
    table: Annotated[
        list[int] | None, typer.Option(metavar="N", help="Number of a table; all if not given.")
    ] = None,
    json_file: given.JsonFile = None,
    markdown_file: given.MarkdownFile = None,
    quiet: given.Quiet = False,
) -> None:
    """Count the rows of the paper's tables, beside the paper's own figures.

    \b
    ghostify reproduce
    ghostify reproduce --table 4 --table 17
    ghostify reproduce --markdown docs/paper.md
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify.paper import reproduce

    with Steps(1, quiet) as step:
        step("counting")
        found = reproduce(table or ())
    for target, text in ((json_file, found.to_json), (markdown_file, found.to_markdown)):
        if target == "-":
            sys.stdout.write(text().rstrip() + "\n")
        elif target is not None:
            write_text(Path(target), text().rstrip() + "\n")
    if not quiet and "-" not in (json_file, markdown_file):
        from rich.console import Console

        Console(highlight=False).print(found)
