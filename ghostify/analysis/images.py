"""Images as a network takes them: files decoded, resized, normalised as its configuration says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ghostify.cost.counting import look
from ghostify.errors import GhostifyError, ModelError
from ghostify.files import kind_of, list_folder, read_image
from ghostify.graph.inputs import candidate_inputs
from ghostify.graph.shadow import shadow

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SUFFIXES = frozenset(Image.registered_extensions())


class ImageFiles:
    """Image files as batches of one, read when they are asked for, each time anew.

    Args:
        paths: Files, or folders: then the image files in them, by name.
        model: The network that tells the size, and mean and standard deviation where its
            configuration has them (else ImageNet's).
        input_size: ``(C, H, W)`` in place of the network's.

    Raises:
        GhostifyError: There is no such file, or no image in a folder.
        ModelError: The network takes no images.
    """

    def __init__(
        self,
        paths: Sequence[str | Path],
        model: nn.Module,
        input_size: Sequence[int] | None = None,
    ) -> None:
        self.paths = [file for path in paths for file in _files(Path(path))]
        self.size = _image_size(model, input_size)
        mean, std = _normalisation(model)
        self.assumed = mean is None or std is None
        self.mean, self.std = mean or IMAGENET_MEAN, std or IMAGENET_STD

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[Tensor]:
        """``(1, C, H, W)`` of each file."""
        for path in self.paths:
            yield self.normalise(self.open(path))

    def open(self, path: Path) -> Image.Image:
        """A file's picture, its shorter side resized to the network's, the middle cut out.

        Raises:
            GhostifyError: The file is no image.
        """
        _, height, width = self.size
        mode = "L" if self.size[0] == 1 else "RGB"
        picture = read_image(path, "give a JPEG or PNG", mode=mode)
        scale = max(height / picture.height, width / picture.width)
        sides = max(width, round(picture.width * scale)), max(height, round(picture.height * scale))
        if sides != picture.size:
            picture = picture.resize(sides, Image.Resampling.BICUBIC)
        left, top = (picture.width - width) // 2, (picture.height - height) // 2
        return picture.crop((left, top, left + width, top + height))

    def normalise(self, picture: Image.Image) -> Tensor:
        """A picture as the network takes it, ``(1, C, H, W)``."""
        values = torch.from_numpy(np.array(picture, dtype=np.float32) / 255)
        channels = values.view(picture.height, picture.width, -1).permute(2, 0, 1)
        count = self.size[0]
        mean, std = (_fitted(values, count) for values in (self.mean, self.std))
        return ((channels.expand(count, -1, -1) - mean) / std).unsqueeze(0)


def as_batches(images: Any, model: nn.Module, input_size: Sequence[int] | None) -> Iterable[Tensor]:
    """What a caller may give as images, as batches that can be gone through more than once.

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
    kind = kind_of(path)
    if kind == "folder":
        found = [p for p in list_folder(path) if p.suffix.lower() in SUFFIXES]
        if not found:
            raise GhostifyError(f"{path} holds no image files: give a folder of JPEGs or PNGs.")
        return found
    if kind != "file":
        raise GhostifyError(f"{path} is no file: give an image, or a folder of images.")
    return [path]


def _image_size(model: nn.Module, input_size: Sequence[int] | None) -> tuple[int, int, int]:
    run = look(model, shadow(model).eval(), candidate_inputs(model, None, input_size)).farthest
    shape = tuple(run.inputs.args[0].shape) if run.inputs.args else ()
    if len(shape) != 4:
        raise ModelError(f"The network takes {run.inputs}, and no image: analyse one that does.")
    return shape[1], shape[2], shape[3]


def _normalisation(model: nn.Module) -> tuple[Any, Any]:
    """Mean and standard deviation that the network's own configuration names."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(model, name, None)
        if isinstance(config, Mapping) and config.get("mean") and config.get("std"):
            return tuple(config["mean"]), tuple(config["std"])
    return None, None


def _fitted(values: Sequence[float], channels: int) -> Tensor:
    """One value for each channel; their mean where the network has other channels than they."""
    if len(values) != channels:
        values = [sum(values) / len(values)] * channels
    return torch.tensor(values).view(-1, 1, 1)
