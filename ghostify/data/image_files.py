"""Image files: finding and decoding them, and the error that tells what is wrong with data."""

from __future__ import annotations

import os
from pathlib import Path

from PIL import Image

from ghostify.errors import GhostifyError
from ghostify.files import find_files, kind_of, read_image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff")
"""Endings of the names of image files, in small letters."""


class DataError(GhostifyError):
    """Images or labels can't be read, are none, or don't fit the network."""


def find_images(folder: Path) -> list[Path]:
    """All image files in a folder and the folders inside it, by name; at least one.

    Raises:
        DataError: It is no folder, or has no images.
    """
    if kind_of(folder, DataError) != "folder":
        raise DataError(f"{folder} is no folder: give one that holds images.")
    files = sorted(map(Path, find_files(folder, SUFFIXES, DataError)))
    if not files:
        raise DataError(
            f"{folder} holds no images ({', '.join(SUFFIXES[:3])}, ...): give some, or leave the "
            "folder out."
        )
    return files


def folder_of(named: str | os.PathLike[str]) -> Path:
    """The path of a folder of images.

    Raises:
        DataError: It is empty, as an unset variable of a shell is: that would be the folder here.
    """
    if not os.fspath(named):
        raise DataError("The name of the folder of images is empty: give one, or . for this one.")
    return Path(named)


def open_image(path: Path) -> Image.Image:
    """An image file, decoded.

    Raises:
        DataError: It can't be read.
    """
    return read_image(path, "leave it out, or give a JPEG or PNG", DataError)
