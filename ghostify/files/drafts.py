"""Temporary names beside what is written, and a lock on them that dies with its process."""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ghostify.errors import GhostifyError

PLACE = ".ghostify.tmp"
"""The one temporary name in a folder that is written to: a folder, gone when the writing is done.

After a kill it stays; the next write into the same folder removes what is in it, and then itself.
"""

LOCK = "lock"
WAIT = 60.0
"""Seconds to wait for another process that writes into the same folder."""

PAUSE = 0.02
_OLD = r"\.{}\.[0-9a-f]{{32}}\.tmp"


class BusyError(GhostifyError):
    """Another process is writing into the same folder."""


@contextmanager
def alone_in(folder: Path) -> Iterator[Path]:
    """A place for half-written files inside a folder, for one process (and thread) at a time.

    The lock goes with the process that holds it, so whoever holds it knows that all other files
    there were left by dead ones. (A file system without locks gives no such protection.)

    Raises:
        BusyError: Another process held it for longer than `WAIT` seconds.
        OSError: The folder can't be written to.
    """
    place = folder / PLACE
    lock = _acquire(place)
    try:
        _empty(place)
        yield place
    finally:
        with suppress(OSError):
            _empty(place)
        _release(place, lock)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A temporary path to write to; when the block ends well it gets the name ``path``.

    Raises:
        BusyError: See `alone_in`.
        OSError: It can't be written.
    """
    with alone_in(path.parent) as place:
        draft = place / "draft"
        yield draft
        put(draft, path)
        _remove_old_drafts(path)


def put(draft: Path, path: Path) -> None:
    """Give a written file its name, by one rename, once all of it is on the disk."""
    with draft.open("rb+") as stream:
        os.fsync(stream.fileno())
    draft.replace(path)


def _acquire(place: Path) -> int:
    end = time.monotonic() + WAIT
    while True:
        with suppress(FileExistsError):  # exist_ok would look again, when it may be gone
            place.mkdir()
        if place.is_symlink():  # whatever it leads to is nobody's leftover
            raise NotADirectoryError(20, f"{place.name} is a link")
        with suppress(FileNotFoundError):  # whoever held it has just removed it
            lock = os.open(place / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
            if _try_lock(lock) and _is_at(lock, place / LOCK):
                return lock
            os.close(lock)
        if time.monotonic() > end:
            raise BusyError(
                f"{place.parent} is being written to by another process: wait for its end, or "
                "give another folder."
            )
        time.sleep(PAUSE)


def _release(place: Path, lock: int) -> None:
    # Elsewhere than on Windows it goes while it is held: no other process holds it then.
    if sys.platform == "win32":
        os.close(lock)
    with suppress(OSError):  # on Windows another process may have it open, and removes it later
        (place / LOCK).unlink()
        place.rmdir()
    if sys.platform != "win32":
        os.close(lock)


def _is_at(lock: int, path: Path) -> bool:
    """Whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(lock: int) -> bool:
    """Lock an open file, where no other process has; True too where the system knows no locks."""
    if sys.platform == "win32":
        import msvcrt

        try:
            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # the file system has none
        return True
    return True


def _empty(place: Path) -> None:
    for path in place.iterdir():
        if path.name == LOCK:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _remove_old_drafts(path: Path) -> None:
    """Remove what killed writes of earlier versions left beside a file."""
    named = re.compile(_OLD.format(re.escape(path.name)))
    with suppress(OSError):
        for entry in os.scandir(path.parent):
            if named.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                Path(entry.path).unlink(missing_ok=True)
