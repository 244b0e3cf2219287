"""Files of a saved folder that its recipe names: their names and checksums belong together.

Each has a part of its checksum in its name, so that a new one never takes the place of the old one
before the recipe does.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ghostify.errors import SavedFolderError
from ghostify.files import drafts, reading

AGAIN = "save the network again"
NAMES = {"weights": ("model-", ".safetensors"), "program": ("program-", ".pt2")}
"""How the name of each kind of file begins and ends."""

_SEALED = re.compile("|".join(f"{a}([0-9a-f]{{8}}){re.escape(z)}" for a, z in NAMES.values()))
# Of earlier versions: their own temporary names, and those of safetensors.
_DRAFT, _PARTIAL = re.compile(r"\.[0-9a-f]{32}\.tmp"), re.compile(r"\.tmp[0-9A-Za-z]{6}")
# What a save that was killed leaves, or a tuning that was stopped before its network was saved: no
# reason to refuse the folder to the next one.
_LEFTOVER = re.compile(
    "|".join(
        [_DRAFT.pattern, _PARTIAL.pattern, _SEALED.pattern, "training", re.escape(drafts.PLACE)]
    )
)


@dataclass(frozen=True)
class SealedFile:
    """A file, and the checksum that its recipe gives it.

    Attributes:
        path: The file.
        sha256: Its checksum.
    """

    path: Path
    sha256: str

    def check(self) -> None:
        """Raise unless the file is what was saved.

        Raises:
            SavedFolderError: It is missing, can't be read, or has another checksum.
        """
        with reading(self.path, AGAIN, SavedFolderError):
            found = digest_of(self.path)
        if found != self.sha256:
            raise SavedFolderError(
                f"{self.path} is not what was saved (its checksum is another): {AGAIN}."
            )

    def to_dict(self) -> dict[str, str]:
        """What a recipe says of it."""
        return {"file": self.path.name, "sha256": self.sha256}


def seal(draft: Path, kind: str, directory: Path) -> SealedFile:
    """What a written file is called in a folder; it is not put there yet."""
    digest = digest_of(draft)
    begin, end = NAMES[kind]
    return SealedFile(directory / f"{begin}{digest[:8]}{end}", digest)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's content."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def may_be_left_over(name: str) -> bool:
    """Whether a save that was killed may have left a file of this name."""
    return _LEFTOVER.fullmatch(name) is not None


def sweep(directory: Path, named: Collection[Path]) -> None:
    """Remove what killed saves left, those of earlier versions too: only what is surely theirs.

    Args:
        directory: A folder that nobody else is saving into.
        named: The files that its recipe names.
    """
    for path in directory.iterdir():
        if path not in named and path.is_file() and not path.is_symlink() and _is_left_over(path):
            remove(path)


def remove(path: Path) -> None:
    """Remove a file that may be gone already."""
    with suppress(PermissionError):  # Windows: somebody reads it; the next save removes it
        path.unlink(missing_ok=True)


def _is_left_over(path: Path) -> bool:
    if _DRAFT.fullmatch(path.name):
        return True
    if _PARTIAL.fullmatch(path.name):  # safetensors begin with the length of a header in braces
        with path.open("rb") as stream:
            return stream.read(9)[8:] in (b"{", b"")
    sealed = _SEALED.fullmatch(path.name)
    return sealed is not None and digest_of(path).startswith(sealed[sealed.lastindex or 0])
