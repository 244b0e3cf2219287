"""Calibration data from a folder, tensors, a data set or a loader; labels are not read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ghostify.data import forms
from ghostify.data.gathering import REFUSALS, Gathered, Piece, cannot_take, output_for
from ghostify.data.image_files import DataError, find_images, folder_of
from ghostify.data.items import read_item
from ghostify.data.preparation import Preparation, preparation_of
from ghostify.data.spool import Spool
from ghostify.distributed import processes
from ghostify.graph.calls import Arguments
from ghostify.graph.failure import describe_error
from ghostify.graph.inputs import Inputs, dtype_of
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import to_single
from ghostify.numerics.finite import non_finite
from ghostify.numerics.nested import map_tensors, tensors_in
from ghostify.progress import Milestone, Progress, silent
from ghostify.settings import Calibration

CalibrationImages = str | Path | Tensor | Mapping | tuple | Spool | Dataset | DataLoader | Iterable
"""Where calibration data may come from."""

Reader = Callable[[Any], Any]
"""From a batch of a loader (an item of a data set) to what the network takes of it."""


def images_for(
    network: nn.Module,
    calibration: Calibration,
    input_size: tuple[int, ...],
    progress: Progress = silent,
) -> tuple[Spool, tuple[str, ...]]:
    """A network's calibration data, read and checked, and what a reader must know of it.

    Args:
        network: In eval mode.
        calibration: Where it comes from, and how much is taken.
        input_size: ``(C, H, W)`` that image files are brought to.
        progress: Told how many have been read.

    Raises:
        DataError: It can't be read, or the network can't take it.
    """
    preparation, notes = None, tuple[str, ...]()
    if calibration.is_folder:
        preparation = preparation_of(network, input_size, calibration.mean, calibration.std)
        notes = preparation.notes
    images = gather(
        calibration.images, calibration.samples, calibration.seed, preparation,
        dtype_of(network), network, calibration.inputs, progress,
    )  # fmt: skip
    check_images(network, images)
    return images, notes


def gather(
    source: CalibrationImages,
    samples: int,
    seed: int,
    preparation: Preparation | None,
    dtype: torch.dtype = torch.float32,
    network: nn.Module | None = None,
    inputs: Reader | None = None,
    progress: Progress = silent,
) -> Spool:
    """At most ``samples`` inputs, ready for the network: tensors, or `Arguments`.

    Args:
        source: A folder of images (`torchvision.datasets.ImageFolder`'s layout or flat), a tensor
            ``(N, ...)``, a tuple or mapping of such tensors, a data set or a loader.
        samples: How many to take.
        seed: Of the choice.
        preparation: For image files.
        dtype: Floating-point type that the network takes.
        network: In eval mode; it is run on a sample to see which form of the data it takes.
        inputs: Says what of an item or batch the network takes.
        progress: Told how many have been read.

    Raises:
        DataError: There are none, they can't be read, or the network takes them in no form.
    """
    if isinstance(source, Spool):  # they have been gathered
        return source
    if samples < 1:
        raise DataError(f"calibration_samples={samples} makes no sense: give 1 or more.")
    gathered, done = Gathered(network, dtype), 0
    for piece in _take(source, samples, seed, preparation, inputs):
        total = piece.total or samples
        progress(Milestone(f"reading calibration images, {done} of {total}", done / total))
        done += gathered.add(piece, done, samples - done)
        if done >= samples:
            break
    if not len(gathered.spool):
        raise DataError("The calibration data holds no images: give at least one.")
    return gathered.spool


def example_of(network: nn.Module, calibration: Calibration) -> Inputs | None:
    """What a network takes, from calibration data that can be read more than once; else None.

    Args:
        network: A copy of it is run on a sample.
        calibration: Where the data comes from.

    Raises:
        DataError: The data can't be read, or the network can't take it.
    """
    source = calibration.images
    if source is None or isinstance(source, str | os.PathLike | Iterator | Spool):
        return None
    single = to_single(copy_network(network).eval())
    samples = gather(
        source, 1, calibration.seed, None, torch.float32, single, calibration.inputs
    )  # fmt: skip
    given = forms.cast(samples.take([0]), dtype_of(network), False)
    if not isinstance(given, Arguments):
        given = Arguments((given,))
    return Inputs(given.args, given.kwargs)


def check_images(network: nn.Module, images: Spool) -> None:
    """Raise where a network can't take the images, or makes no numbers of them.

    Args:
        network: In eval mode.
        images: Of which it is given one.
    """
    given = images.take([0])
    try:
        output = output_for(network, given)
    except REFUSALS as error:
        raise cannot_take(given, error) from error
    made = tensors_in(output)
    if non_finite((str(place), x) for place, x in enumerate(made)):
        bad = non_finite(network.state_dict().items())
        why = f"its {bad[0]!r} holds some" if bad else "check its weights and the images"
        raise DataError(
            "The network's output for a calibration image holds values that are not finite "
            f"({why}): nothing can be fitted to it; leave calibration, or give a trained network."
        )


def batch_size(sample: Any, most: int) -> int:
    """Samples at a time: fewer when they, or the maps that a segment gets, are large.

    Args:
        sample: One of them, ``(1, ...)`` each tensor.
        most: At most so many.
    """
    numbers = sum(tensor.numel() for tensor in tensors_in(sample))
    return max(8, min(most, 2**22 // max(numbers, 1)))


def _take(
    source: Any, samples: int, seed: int, preparation: Preparation | None, inputs: Reader | None
) -> Iterator[Piece]:
    """The parts of the data."""
    if isinstance(source, str | os.PathLike):
        assert preparation is not None
        files = find_images(folder_of(source))
        chosen = _choose(len(files), samples, seed)
        for i in chosen:
            name = str(files[i]).replace("{", "{{").replace("}", "}}")
            yield Piece(name, preparation.read(files[i]), True, False, total=len(chosen))
    elif isinstance(source, Tensor | Mapping) or _is_tensors(source):
        value = forms.as_tensors(source) if inputs is None else inputs(source)
        count = _common_length(value)
        chosen = _choose(count, samples, seed)
        for i in chosen:
            sample = map_tensors(itemgetter(slice(i, i + 1)), value)
            what = f"Image {i} of the calibration images"
            yield Piece(what, sample, False, False, total=len(chosen))
    elif isinstance(source, IterableDataset):
        for i, item in enumerate(_each(source, "Item")):
            value = forms.as_tensors(item) if inputs is None else inputs(item)
            yield Piece(f"Item {i} of the calibration data", value, True, inputs is None, True)
    elif isinstance(source, DataLoader) or not hasattr(source, "__getitem__"):
        for batch in _each(source, "Batch"):
            value = forms.as_tensors(batch) if inputs is None else inputs(batch)
            yield Piece("Image {} of the calibration data", value, False, inputs is None, True)
    else:
        chosen = _choose(len(source), samples, seed)
        for i in chosen:
            read = read_item(source, i)
            item = forms.as_tensors(read) if inputs is None else inputs(read)
            what = f"Item {i} of the calibration data"
            yield Piece(what, item, True, inputs is None, total=len(chosen))


def _each(source: Any, what: str) -> Iterator[Any]:
    """What a loader or a data set gives, one after the other.

    Raises:
        DataError: It can't be gone through, or fails.
    """
    if not isinstance(source, Iterable):
        raise DataError(
            f"A {type(source).__name__} is no calibration data: give a folder, tensors, a data set "
            "or a loader."
        )
    place = 0
    try:
        for given in source:
            yield given
            place += 1
    except (DataError, GeneratorExit):
        raise
    except Exception as error:
        raise DataError(
            f"{what} {place} of the calibration data can't be read ({describe_error(error)}): "
            "leave it out."
        ) from error


def _is_tensors(source: Any) -> bool:
    """Whether it is a tuple of all inputs, ``(N, ...)`` each."""
    return isinstance(source, tuple) and bool(source) and all(isinstance(x, Tensor) for x in source)


def _common_length(value: Any) -> int:
    shapes = [tuple(tensor.shape) for tensor in tensors_in(value)]
    lengths = {shape[0] if shape else None for shape in shapes}
    if len(lengths) != 1 or None in lengths:
        raise DataError(
            f"Calibration images of shape {', '.join(map(str, shapes)) or '()'} make no sense: "
            "give tensors (N, ...), as many samples in each."
        )
    return next(iter(lengths)) or 0


def _choose(count: int, samples: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    rank, world = processes()
    if not count:
        raise DataError("The calibration data holds no images: give at least one.")
    if min(count, samples) < world:
        raise DataError(
            f"{min(count, samples)} calibration images are too few for {world} processes: give "
            "one for each or more."
        )
    # Not sorted: files lie class by class, and some steps look at the first images only.
    return torch.randperm(count, generator=generator)[:samples].tolist()[rank::world]
