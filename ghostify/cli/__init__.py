"""The command line. No logic here, and no torch before a command needs it."""

from __future__ import annotations

import sys

from ghostify.cli._app import app
from ghostify.cli._terminal import INTERRUPTED, Stopped, complain
from ghostify.errors import GhostifyError

__all__ = ["app", "main"]


def main() -> None:
    """Run the ``ghostify`` command; bad input ends with one sentence and exit code 2."""
    try:
        app()
    except GhostifyError as error:
        complain(str(error))
        sys.exit(2)
    except SystemExit as end:
        # typer ends so, without a word
        if end.code == INTERRUPTED and not isinstance(end, Stopped):
            complain("interrupted; nothing was written half")
        raise
