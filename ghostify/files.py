"""Writing files whole or not at all."""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from pathlib import Path

from ghostify.errors import GhostifyError


def check_target(path: Path) -> None:
    """Raise where a file can't be written, before any work is done for it.

    Raises:
        GhostifyError: Its folder is not there or not to be written to, or it is a folder itself.
    """
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    if not path.parent.is_dir():
        raise _unwritable(path, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(path, "no permission")


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: nobody ever sees half of it.

    What is no regular file (``/dev/stdout``, a pipe) is written to as it is.

    Raises:
        GhostifyError: The file can't be written there.
    """
    check_target(path)
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
            return
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _unwritable(path: Path, reason: str) -> GhostifyError:
    return GhostifyError(
        f"{path} can't be written ({reason}): give a file in a folder you may write to."
    )
