"""Reading and writing files: every fault of a file system in a sentence, nothing written half."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ghostify.errors import GhostifyError, first_line
from ghostify.files import drafts

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 8_000_000
"""Of a text that is read."""

Kind = Literal["file", "folder", "other", "nothing"]
Error = type[GhostifyError]
NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL}


def kind_of(path: Path, error: Error = GhostifyError) -> Kind:
    """Kind of a path: a regular file, a folder, something else (a pipe, ...), or nothing.

    Raises:
        GhostifyError: (or ``error``) Its folder can't be looked into.
    """
    try:
        mode = path.stat().st_mode
    except ValueError:  # a null character: no file has such a name
        return "nothing"
    except OSError as fault:
        if fault.errno in NOT_THERE:
            return "nothing"
        raise error(
            f"{path} can't be looked at ({reason_of(fault)}): give what you may read."
        ) from fault
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def reason_of(error: BaseException) -> str:
    """Why a file can't be read or written, in a few words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is no text"
    if isinstance(error, UnicodeEncodeError):
        return "its name can't be written as bytes"
    return getattr(error, "strerror", None) or first_line(error) or type(error).__name__


@contextmanager
def reading(path: Path, advice: str, error: Error = GhostifyError) -> Iterator[None]:
    """Turn faults of reading a file into one sentence; it must be a regular file.

    A pipe would be waited for, and a device has no end: neither is opened.

    Args:
        path: Of the file.
        advice: What to do, as the end of the sentence.
        error: Class of the error.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise error(f"{path} can't be read (it is no regular file): {advice}.")
        yield
    except (OSError, ValueError, EOFError) as fault:  # a name with a null, bytes that are no text
        raise error(f"{path} can't be read ({reason_of(fault)}): {advice}.") from fault


def read_text(path: Path, advice: str, error: Error = GhostifyError) -> str:
    """The text of a file of at most `MAX_BYTES`; see `reading`."""
    with reading(path, advice, error):
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is longer than {MAX_BYTES} bytes")
        return path.read_text(encoding="utf-8")


def read_image(path: Path, advice: str, error: Error = GhostifyError, mode: str = "") -> Image:
    """An image file, decoded; see `reading`.

    Args:
        path: Of the file.
        advice: What to do, as the end of the sentence.
        error: Class of the error.
        mode: Pillow's mode to convert it to, as ``"RGB"``; where empty its own, pixels of more
            than eight bits in eight.
    """
    from PIL import Image, UnidentifiedImageError

    with reading(path, advice, error):
        try:
            with Image.open(path) as opened:
                opened.load()
                image = _in_bytes(opened)
                return image.convert(mode) if mode else image
        except Exception as fault:  # bytes that are no image break the decoders in any way
            unknown = isinstance(fault, UnidentifiedImageError | SyntaxError)
            reason = "of no known format" if unknown else reason_of(fault)
            raise error(f"{path} can't be read as an image ({reason}): {advice}.") from fault


def _in_bytes(image: Image) -> Image:
    """An image of larger numbers (16 bits, 0 to 1) in bytes; Pillow would cut them off at 255."""
    import numpy as np
    from PIL import Image as images

    if not image.mode.startswith(("I", "F")):
        return image
    numbers = np.asarray(image, dtype=np.float64)
    most = numbers.max(initial=0.0)
    if image.mode.startswith("I;16") or most > 255:  # a dark image of 16 bits is one of 16 bits
        largest = 65535.0
    else:
        largest = 1.0 if image.mode == "F" and most <= 1 else 255.0
    scaled = np.nan_to_num(numbers) * (255.0 / largest)
    return images.fromarray(scaled.clip(0, 255).round().astype(np.uint8))


def list_folder(folder: Path, error: Error = GhostifyError) -> list[Path]:
    """A folder's entries, sorted by name.

    Raises:
        GhostifyError: (or ``error``) It can't be read.
    """
    try:
        return sorted(folder.iterdir())
    except (OSError, ValueError) as fault:
        raise _unreadable(folder, fault, error) from fault


def find_files(folder: Path, suffixes: Collection[str], error: Error = GhostifyError) -> list[str]:
    """All files with these suffixes (in small letters) in a folder and those inside it, unsorted.

    Hidden ones are left out, as those are that macOS writes beside images (``._photo.jpg``).

    Raises:
        GhostifyError: (or ``error``) One of the folders can't be read.
    """

    def refuse(fault: OSError) -> None:
        raise _unreadable(Path(fault.filename or folder), fault, error) from fault

    # os.walk and not rglob: of 50,000 files it takes a fifth of the time, and tells of faults.
    return [
        os.path.join(place, name)  # noqa: PTH118
        for place, _, names in os.walk(folder, onerror=refuse)
        for name in names
        if os.path.splitext(name)[1].lower() in suffixes and name[0] != "."  # noqa: PTH122
    ]


def check_writable(path: Path) -> None:
    """Raise where a file can't be written, before any work is done for it.

    Raises:
        GhostifyError: Its folder is not there or not to be written to, or it is a folder itself.
    """
    if kind_of(path) == "folder":
        raise _unwritable(path, "it is a folder")
    if kind_of(path.parent) != "folder":
        raise _unwritable(path, f"there is no folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise _unwritable(path, "no permission")
    try:
        path.exists()
    except OSError as error:  # a name that is too long
        raise _unwritable(path, reason_of(error)) from error


def check_folder(folder: Path, error: Error = GhostifyError) -> None:
    """Raise where a folder can't be made or written to, before any work is done for it.

    Raises:
        GhostifyError: (or ``error``) It is a file, lies in one, or there is no permission.
    """
    try:
        folder.exists()
        first = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    except OSError as fault:
        raise _no_folder(folder, reason_of(fault), error) from fault
    if not first.is_dir():
        raise _no_folder(folder, f"{first} is a file", error)
    if not os.access(first, os.W_OK | os.X_OK):
        raise _no_folder(folder, "no permission", error)


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it lies in, where they are not there.

    Raises:
        GhostifyError: It can't be made, or not be written to.
    """
    check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as fault:
        raise _no_folder(folder, reason_of(fault)) from fault


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn faults of writing a file into one sentence.

    Raises:
        GhostifyError: The file can't be written.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        raise _unwritable(path, reason_of(error)) from error


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """A path to write a file to: a temporary one, which gets the name ``path`` at the end.

    Nobody ever sees half of the file. What is no regular file (``/dev/stdout``, a pipe) is written
    to as it is.

    Raises:
        GhostifyError: The file can't be written there.
    """
    check_writable(path)
    with explained(path):
        if kind_of(path) == "other":
            yield path
        else:
            with drafts.written_whole(path) as draft:
                yield draft


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all; see `writing`."""
    with writing(path) as draft:
        draft.write_text(text, encoding="utf-8", errors="backslashreplace")


def _no_folder(folder: Path, reason: str, error: Error = GhostifyError) -> GhostifyError:
    return error(f"{folder} can't be written ({reason}): give a folder you may write to.")


def _unwritable(path: Path, reason: str) -> GhostifyError:
    return GhostifyError(
        f"{path} can't be written ({reason}): give a file in a folder you may write to, with room."
    )


def _unreadable(folder: Path, fault: Any, error: Error) -> GhostifyError:
    return error(f"{folder} can't be read ({reason_of(fault)}): give a folder you may read.")
