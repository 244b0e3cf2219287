"""The command line. No logic here, and no torch before a command needs it."""

from __future__ import annotations

import sys

from ghostify.cli._app import app
from ghostify.cli._terminal import complain
from ghostify.errors import GhostifyError

__all__ = ["app", "main"]

INTERRUPTED = 130


def main() -> None:
    """Run the ``ghostify`` command; bad input ends with one sentence and exit code 2."""
    try:
        app()
    except GhostifyError as error:
        complain(str(error))
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:  # typer ends so, without a word
            complain("interrupted; nothing was written half")
        raise
