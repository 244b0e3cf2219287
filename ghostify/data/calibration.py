"""Calibration data from a folder, tensors, a data set or a loader; labels are not read."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ghostify.data import forms
from ghostify.data.image_files import DataError, find_images
from ghostify.data.items import describe_item
from ghostify.data.preparation import Preparation, preparation_of
from ghostify.data.spool import Spool
from ghostify.distributed import processes
from ghostify.graph.calls import Arguments, call
from ghostify.graph.failure import describe_error
from ghostify.graph.inputs import Inputs, dtype_of
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import to_single
from ghostify.numerics.finite import check_pixels, check_values, non_finite
from ghostify.numerics.nested import map_tensors, tensors_in
from ghostify.settings import Calibration

CalibrationImages = str | Path | Tensor | Mapping | tuple | Spool | Dataset | DataLoader | Iterable
"""Where calibration data may come from."""

Reader = Callable[[Any], Any]
"""From a batch of a loader (an item of a data set) to what the network takes of it."""

REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What networks raise that can't take what they are given."""


def images_for(
    network: nn.Module, calibration: Calibration, input_size: tuple[int, ...]
) -> tuple[Spool, tuple[str, ...]]:
    """A network's calibration data, read and checked, and what a reader must know of it.

    Args:
        network: In eval mode.
        calibration: Where it comes from, and how much is taken.
        input_size: ``(C, H, W)`` that image files are brought to.

    Raises:
        DataError: It can't be read, or the network can't take it.
    """
    preparation, notes = None, tuple[str, ...]()
    if isinstance(calibration.images, str | os.PathLike):
        preparation = preparation_of(network, input_size, calibration.mean, calibration.std)
        notes = preparation.notes
    images = gather(
        calibration.images, calibration.samples, calibration.seed, preparation,
        dtype_of(network), network, calibration.inputs,
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

    Raises:
        DataError: There are none, they can't be read, or the network takes them in no form.
    """
    if isinstance(source, Spool):  # they have been gathered
        return source
    if samples < 1:
        raise DataError(f"calibration_samples={samples} makes no sense: give 1 or more.")
    gathered, done = _Gathered(network, dtype), 0
    for piece in _take(source, samples, seed, preparation, inputs):
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


@dataclass(frozen=True)
class _Piece:
    """A part of the data.

    Attributes:
        what: Its name for a message; of a batch that of a sample, to be filled with its number.
        value: As the data has it.
        is_item: Whether it is one sample, without a dimension for the samples.
        is_pair: Whether what comes after the inputs in a tuple may be labels.
        is_shared: Whether all processes have it, and each is to take its part.
    """

    what: str
    value: Any
    is_item: bool
    is_pair: bool
    is_shared: bool = False


class _Gathered:
    """Samples so far, and the form that the network takes them in."""

    def __init__(self, network: nn.Module | None, dtype: torch.dtype) -> None:
        self.network, self.dtype, self.spool = network, dtype, Spool()
        self.form: _Form | None = None
        self.shapes: set[tuple[Any, ...]] = set()
        self.parts = 0

    def add(self, piece: _Piece, number: int, most: int) -> int:
        """Take at most so many samples of a part of the data; returns how many it has.

        Args:
            piece: The part.
            number: Of samples before it.
            most: Samples that are wanted.
        """
        if self.form is None:
            self.form = self._choose(piece)
        what = piece.what.format(number)
        try:
            given = self.form(piece)
            is_one = piece.is_item and not self.form.is_batch
            count, whole = (1, True) if is_one else _count_of(given)
        except (KeyError, IndexError, TypeError) as error:
            raise DataError(
                f"{what} is not like those before it ({describe_error(error)}): give data of one "
                "kind."
            ) from error
        rank, world = processes() if piece.is_shared else (0, 1)
        if whole:
            self.parts += 1
            if self.parts % world == rank:
                self._append(given, what, count, _count_of(given)[1])
            return count
        for row in range(min(count, most)):
            if (number + row) % world == rank:
                self._append(_rows(given, [row]), piece.what.format(number + row), 1)
        return count

    def _append(self, given: Any, what: str, count: int, whole: bool = False) -> None:
        if isinstance(given, Tensor):
            check_pixels(given, what, DataError)
        else:
            check_values(given, what, DataError)
        shapes = tuple(tuple(tensor.shape) for tensor in tensors_in(given))
        if shapes not in self.shapes:
            if self.shapes and isinstance(given, Tensor) and not self._takes_lists(given):
                first = next(iter(self.shapes))[0]
                raise DataError(
                    f"{what} has the shape {tuple(given.shape[1:])}, and the {len(self.spool)} "
                    f"before it {first[1:]}: give images of one shape."
                )
            self.shapes.add(shapes)
        self.spool.append(given, count, whole)

    def _takes_lists(self, given: Tensor) -> bool:
        """Whether a network takes a list of images, which may be of several sizes."""
        return self.network is None or _refusal(self.network, Arguments((list(given),))) is None

    def _choose(self, piece: _Piece) -> _Form:
        """The first form of the data that the network takes."""
        refused: tuple[Any, Exception] | None = None
        for form in _forms(self.network, piece, self.dtype):
            try:
                given = form(piece)
            except (KeyError, IndexError, TypeError):
                continue
            if not tensors_in(given):
                continue
            if self.network is None:
                return form
            error = _refusal(self.network, _sample(given))
            if error is None:
                return form
            refused = refused or (given, error)
        if refused is None:
            raise DataError(
                f"An item of the calibration data begins with {describe_item(_first(piece.value))},"
                " and no image: give a data set whose transform makes tensors (C, H, W), ready for "
                "the network, or inputs=, a function from an item to what the network takes."
            )
        raise _cannot_take(*refused) from refused[1]


@dataclass(frozen=True)
class _Form:
    """A form that a part of the data may have.

    Attributes:
        shape: Brings a part's value into it.
        is_batch: Whether that has a dimension for the samples of its own.
    """

    shape: Callable[[Any], Any]
    is_batch: bool = True

    def __call__(self, piece: _Piece) -> Any:
        return self.shape(piece.value)


def _forms(network: nn.Module | None, piece: _Piece, dtype: torch.dtype) -> Iterator[_Form]:
    """The forms that a part of the data may have, likeliest first."""
    ways = [forms.batched, _as_it_is] if piece.is_item else [_as_it_is]
    asked = nn.Identity() if network is None else network
    for way, form in product(ways, forms.forms_for(asked, piece.value, piece.is_pair)):
        try:
            numbers = forms.casts_for(form(way(piece.value)))
        except (KeyError, IndexError, TypeError):
            continue
        for number in numbers:
            yield _Form(partial(_shaped, way, form, dtype, number), way is _as_it_is)
    if piece.is_item:  # networks that take lists of images
        yield _Form(lambda value: forms.cast(Arguments(([value],)), dtype, False), False)


def _shaped(
    way: Callable[[Any], Any],
    form: Callable[[Any], Any],
    dtype: torch.dtype,
    number: bool,
    value: Any,
) -> Any:
    """A value in one form."""
    return forms.cast(form(way(value)), dtype, number)


def _as_it_is(value: Any) -> Any:
    return value


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, tuple | list) and value else value


def _count_of(given: Any) -> tuple[int, bool]:
    """How many samples there are, and whether they can't be told apart."""
    tensors = tensors_in(given)
    count = len(tensors[0]) if tensors[0].ndim else 1
    only = given.args[0] if isinstance(given, Arguments) and len(given.args) == 1 else None
    if isinstance(only, list | tuple) and all(_is_image(x) for x in only):
        return len(only), True
    return count, any(t.ndim == 0 or len(t) != count for t in tensors)


def _is_image(value: Any) -> bool:
    """Whether it is one of a list of images, ``(C, H, W)`` each, and no batch of maps."""
    return isinstance(value, Tensor) and value.ndim <= 3


def _rows(given: Any, rows: list[int]) -> Any:
    return map_tensors(lambda tensor: tensor[rows], given)


def _sample(given: Any) -> Any:
    """One sample of a batch; all where they can't be told apart."""
    return given if _count_of(given)[1] else _rows(given, [0])


@torch.no_grad()
def _run(network: nn.Module, given: Any) -> Any:
    device = next(network.parameters(), torch.zeros(())).device
    return call(network, map_tensors(lambda tensor: tensor.to(device), given))


def _refusal(network: nn.Module, given: Any) -> Exception | None:
    """What a network says against an input."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _run(network, given)
    except REFUSALS as error:
        return error
    return None


def _cannot_take(given: Any, error: Exception) -> DataError:
    if isinstance(given, Tensor):
        shape = "x".join(map(str, given.shape[1:]))
        return DataError(
            f"The network can't take calibration images of {shape} ({describe_error(error)}): "
            "give images as its forward takes them, (C, H, W) each."
        )
    shapes = ", ".join("x".join(map(str, t.shape)) or "()" for t in tensors_in(given))
    return DataError(
        f"The network can't take calibration data of {shapes} ({describe_error(error)}): give "
        "what its forward takes, or inputs=, a function from a batch of the data to that."
    )


def check_images(network: nn.Module, images: Spool) -> None:
    """Raise where a network can't take the images, or makes no numbers of them.

    Args:
        network: In eval mode.
        images: Of which it is given one.
    """
    given = images.take([0])
    try:
        output = _run(network, given)
    except REFUSALS as error:
        raise _cannot_take(given, error) from error
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
) -> Iterator[_Piece]:
    """The parts of the data."""
    if isinstance(source, str | Path):
        assert preparation is not None
        files = find_images(Path(source))
        for i in _choose(len(files), samples, seed):
            name = str(files[i]).replace("{", "{{").replace("}", "}}")
            yield _Piece(name, preparation.read(files[i]), True, False)
    elif isinstance(source, Tensor | Mapping) or _is_tensors(source):
        value = forms.as_tensors(source) if inputs is None else inputs(source)
        count = _common_length(value)
        for i in _choose(count, samples, seed):
            sample = map_tensors(itemgetter(slice(i, i + 1)), value)
            yield _Piece(f"Image {i} of the calibration images", sample, False, False)
    elif isinstance(source, DataLoader) or not hasattr(source, "__getitem__"):
        for batch in source:
            value = forms.as_tensors(batch) if inputs is None else inputs(batch)
            yield _Piece("Image {} of the calibration data", value, False, inputs is None, True)
    else:
        for i in _choose(len(source), samples, seed):
            item = forms.as_tensors(source[i]) if inputs is None else inputs(source[i])
            yield _Piece(f"Item {i} of the calibration data", item, True, inputs is None)


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
    if min(count, samples) < world:
        raise DataError(
            f"{min(count, samples)} calibration images are too few for {world} processes: give "
            "one for each or more."
        )
    # Not sorted: files lie class by class, and some steps look at the first images only.
    return torch.randperm(count, generator=generator)[:samples].tolist()[rank::world]
