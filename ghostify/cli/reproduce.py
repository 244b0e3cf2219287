"""``ghostify reproduce``."""

from __future__ import annotations

from typing import Annotated

import typer

from ghostify.cli import _options as given
from ghostify.cli._terminal import (
    Steps,
    check_report_targets,
    print_plain,
    warn_in_a_line,
    write_report,
)


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

    check_report_targets(json_file, markdown_file)
    with Steps(quiet, json_file, markdown_file) as step:
        step("counting")
        found = reproduce(table or ())
    write_report(found, json_file, markdown_file)
    if not quiet and "-" not in (json_file, markdown_file):
        print_plain(found)
