"""Samples of calibration data, in the first form that the network takes them in."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.data import forms
from ghostify.data.image_files import DataError
from ghostify.data.items import describe_item
from ghostify.data.spool import Spool
from ghostify.distributed import processes
from ghostify.graph.calls import Arguments, call
from ghostify.graph.failure import describe_error
from ghostify.numerics.finite import check_pixels, check_values
from ghostify.numerics.nested import map_tensors, tensors_in

REFUSALS = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What networks raise that can't take what they are given."""


@dataclass(frozen=True)
class Piece:
    """A part of the data.

    Attributes:
        what: Its name for a message; of a batch that of a sample, to be filled with its number.
        value: As the data has it.
        is_item: Whether it is one sample, without a dimension for the samples.
        is_pair: Whether what comes after the inputs in a tuple may be labels.
        is_shared: Whether all processes have it, and each is to take its part.
        total: How many samples there will be; 0 where the data doesn't tell.
    """

    what: str
    value: Any
    is_item: bool
    is_pair: bool
    is_shared: bool = False
    total: int = 0


class Gathered:
    """Samples so far, and the form that the network takes them in."""

    def __init__(self, network: nn.Module | None, dtype: torch.dtype) -> None:
        self.network, self.dtype, self.spool = network, dtype, Spool()
        self.form: _Form | None = None
        self.shapes: set[tuple[Any, ...]] = set()
        self.parts = 0

    def add(self, piece: Piece, number: int, most: int) -> int:
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

    def _choose(self, piece: Piece) -> _Form:
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
        raise cannot_take(*refused) from refused[1]


@dataclass(frozen=True)
class _Form:
    """A form that a part of the data may have.

    Attributes:
        shape: Brings a part's value into it.
        is_batch: Whether that has a dimension for the samples of its own.
    """

    shape: Callable[[Any], Any]
    is_batch: bool = True

    def __call__(self, piece: Piece) -> Any:
        return self.shape(piece.value)


def _forms(network: nn.Module | None, piece: Piece, dtype: torch.dtype) -> Iterator[_Form]:
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
def output_for(network: nn.Module, given: Any) -> Any:
    """What a network gives for an input, which is brought to its device."""
    device = next(network.parameters(), torch.zeros(())).device
    return call(network, map_tensors(lambda tensor: tensor.to(device), given))


def _refusal(network: nn.Module, given: Any) -> Exception | None:
    """What a network says against an input."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            output_for(network, given)
    except REFUSALS as error:
        return error
    return None


def cannot_take(given: Any, error: Exception) -> DataError:
    """The error that says that a network can't take an input, and what it said against it."""
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
