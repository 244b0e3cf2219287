"""``ghostify push``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ghostify.cli import _options as given
from ghostify.cli._terminal import Steps, complain, prints_to_stderr, warn_in_a_line


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="What ghostify saved.")],
    repo_id: Annotated[str, typer.Argument(metavar="USER/NAME", help="The repository.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository a private one.")
    ] = False,
    message: Annotated[
        str, typer.Option(metavar="TEXT", help="Of the commit.", show_default=False)
    ] = "Saved by ghostify",
    quiet: given.Quiet = False,
) -> None:
    """Send a saved network to the Hugging Face Hub, and print its address.

    Weights, recipe, model card and program (if any) are sent, and nothing else that is in the
    folder. Log in first: hf auth login, or HF_TOKEN.

    \b
    ghostify push out user/resnet50-ghost
    ghostify push out user/resnet50-ghost --private --message 'Tuned for 5 epochs'
    ghostify report hf://user/resnet50-ghost
    """  # noqa: D301 (click reads the character)
    warn_in_a_line()
    from ghostify import saving

    with prints_to_stderr(), Steps(quiet) as step:
        step(f"sending {folder}")
        url = saving.push(folder, repo_id, private=private or None, message=message)
    typer.echo(url)
    if not quiet:
        complain(f"load it with ghostify.load({f'hf://{repo_id}'!r})")
