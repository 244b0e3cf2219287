"""Batches of the images that a caller gives to analyse."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from ghostify.cost.counting import look
from ghostify.data.image_files import DataError, find_images, open_image
from ghostify.data.preparation import preparation_of
from ghostify.errors import GhostifyError, ModelError
from ghostify.files import kind_of
from ghostify.graph.inputs import candidate_inputs
from ghostify.graph.meta_copy import meta_copy


class ImageFiles:
    """Image files as batches of one, read when they are asked for, each time anew.

    Args:
        paths: Files, or folders: then the image files in them, by name.
        model: The network that tells the size, and in its configuration how images are resized
            and normalised (else as is usual for ImageNet).
        input_size: ``(C, H, W)`` in place of the network's.

    Raises:
        DataError: There is no such file, or no image in a folder.
        ModelError: The network takes no images.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        model: nn.Module,
        input_size: Sequence[int] | None = None,
    ) -> None:
        self.paths = [file for path in paths for file in _files(Path(path))]
        self.preparation = preparation_of(model, _image_size(model, input_size))

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Tensor]:
        """``(1, C, H, W)`` of each file."""
        for path in self.paths:
            yield self.preparation.read(path)[None]

    def open(self, path: Path) -> Image.Image:
        """A file's picture as the network sees it, before it is normalised."""
        return self.preparation.crop(open_image(path))


def as_batches(images: Any, model: nn.Module, input_size: Sequence[int] | None) -> Iterable[Tensor]:
    """Batches, which can be gone through more than once, of the images that a caller gives.

    Raises:
        GhostifyError: There is no image, or it can be gone through only once.
    """
    if isinstance(images, Tensor):
        return [images]
    if isinstance(images, str | Path):
        return ImageFiles([images], model, input_size)
    if isinstance(images, Iterator):
        raise GhostifyError(
            "The images are an iterator, and they are gone through more than once: give a tensor, "
            "a list of batches, file names or a DataLoader."
        )
    if isinstance(images, Sequence) and images and isinstance(images[0], str | Path):
        return ImageFiles(images, model, input_size)
    return images


def _files(path: Path) -> list[Path]:
    kind = kind_of(path, DataError)
    if kind == "folder":
        return find_images(path)
    if kind != "file":
        raise DataError(f"{path} is no file: give an image, or a folder of images.")
    return [path]


def _image_size(model: nn.Module, input_size: Sequence[int] | None) -> tuple[int, ...]:
    run = look(model, meta_copy(model).eval(), candidate_inputs(model, None, input_size)).farthest
    shape = tuple(run.inputs.args[0].shape) if run.inputs.args else ()
    if len(shape) != 4:
        raise ModelError(f"The network takes {run.inputs}, and no image: analyse one that does.")
    return shape[1:]
