"""``ghostify models``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ghostify.cli._terminal import complain, prints_to_stderr, warn_in_a_line


def models(
    pattern: Annotated[
        str, typer.Argument(help="A part of the name, or a glob pattern as 'resnet*'.")
    ] = "*",
) -> None:
    """List the names that MODEL may be.

    \b
    ghostify models
    ghostify models cifar
    ghostify models 'timm/*regnet*'
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import zoo

    with prints_to_stderr():
        names = zoo.list_models(pattern)
    for name in names:
        sys.stdout.write(f"{name}\n")
    if not names:
        complain(f"no model is named like {pattern!r}")
        raise typer.Exit(1)
