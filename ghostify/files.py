"""Writing files whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path

from ghostify.errors import GhostifyError


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it: nobody ever sees half of it.

    Raises:
        GhostifyError: The file can't be written there.
    """
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    except OSError as error:
        raise GhostifyError(
            f"{path} can't be written ({error.strerror}): give a file in a folder you may write to."
        ) from error
    finally:
        draft.unlink(missing_ok=True)
