"""From what a user gave to calls of a network: one tensor, several, or by keyword.

What a network takes can't be told from the data alone: ``(a, b)`` may be two inputs, or an input
and its label. So there are several ways to read it, and the first that the network takes is it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify.data.items import split_item
from ghostify.graph.calls import Arguments
from ghostify.graph.inputs import forward_parameters
from ghostify.numerics.nested import floats_in, map_tensors, tensors_in

LABELS = ("label", "labels", "target", "targets")
"""Keys that are no inputs, where the network can do without."""

Form = Callable[[Any], Any]
"""From a value to what the network is given: a tensor or `Arguments`."""


class Unfit(Exception):
    """A value can't be read in this way."""


def forms_for(network: nn.Module, value: Any, is_pair: bool) -> Iterator[Form]:
    """The ways to read a value as a network's input, likeliest first.

    Args:
        network: Its forward's signature says what it may be.
        value: With its tensors, as the data has it.
        is_pair: Whether what comes after the inputs in a tuple may be labels.
    """
    if isinstance(value, Tensor):
        yield one
    elif isinstance(value, Mapping):
        yield from _forms_of_mapping(network, value)
    elif isinstance(value, tuple | list) and value:
        yield from _forms_of_sequence(network, value, is_pair)


def one(value: Any) -> Any:
    """The value as the one positional argument."""
    return value if isinstance(value, Tensor) else Arguments((value,))


def all_of(value: Any) -> Any:
    """The members of a tuple as positional arguments."""
    return first_of(len(value), value)


def first_of(count: int, value: Any) -> Any:
    """The first members of a tuple as positional arguments."""
    return one(value[0]) if count == 1 else Arguments(tuple(value[:count]))


def keywords(names: tuple[str, ...], value: Any) -> Any:
    """Entries of a mapping as keyword arguments."""
    return Arguments((), {name: value[name] for name in names})


def image_of(value: Any) -> Any:
    """The entry of a mapping that is the image."""
    return one(split_item(value)[0])


def inside(place: Any, form: Form, value: Any) -> Any:
    """What a form makes of a member."""
    return form(value[place])


def _forms_of_mapping(network: nn.Module, value: Mapping[str, Any]) -> Iterator[Form]:
    inputs = tuple(name for name in value if name not in LABELS)
    for names in dict.fromkeys((inputs, tuple(value))):
        if names and _takes(network, Arguments((), dict.fromkeys(names))):
            yield partial(keywords, names)
    if isinstance(split_item(value)[0], Tensor):
        yield image_of
    yield one


def _forms_of_sequence(network: nn.Module, value: Any, is_pair: bool) -> Iterator[Form]:
    required, most = _positional(network)
    counts = [required, len(value)] if is_pair else [len(value), required]
    if not isinstance(value[0], Tensor):  # ((a, b), label)
        for form in forms_for(network, value[0], False):
            yield partial(inside, 0, form)
    for count in dict.fromkeys(counts):
        if count <= min(len(value), most):
            yield partial(first_of, count)
    if not is_pair:
        yield one


def _takes(network: nn.Module, given: Arguments) -> bool:
    try:
        inspect.signature(network.forward).bind(*given.args, **given.kwargs)
    except (TypeError, ValueError):
        return False
    return True


def _positional(network: nn.Module) -> tuple[int, int]:
    """How many positional arguments a forward needs, and how many it takes."""
    kinds = inspect.Parameter
    parameters = list(forward_parameters(network).values())
    own = [p for p in parameters if p.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)]
    required = sum(p.default is p.empty for p in own)
    is_open = not parameters or any(p.kind is kinds.VAR_POSITIONAL for p in parameters)
    return max(1, required), 2**31 if is_open else len(own)


def as_tensors(value: Any) -> Any:
    """Arrays of NumPy as tensors; all else as it is."""

    def change(leaf: Any) -> Any:
        is_numbers = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufc"
        return torch.from_numpy(leaf) if is_numbers else leaf

    return pytree.tree_map(change, value)


def batched(item: Any) -> Any:
    """One item as a batch of it alone: each tensor gets a first dimension."""
    return map_tensors(lambda tensor: tensor[None], item)


def casts_for(given: Any) -> tuple[bool, ...]:
    """Whether to turn whole numbers into the network's floating-point type: what to try first.

    Pixels are turned, tokens are not; a network that can't take them so is tried with the other.
    """
    whole = [
        t for t in tensors_in(given) if not t.dtype.is_floating_point and t.dtype != torch.bool
    ]
    if not whole:
        return (False,)
    is_image = all(t.ndim >= 4 or t.dtype == torch.uint8 for t in whole) and not floats_in(given)
    return (True, False) if is_image else (False, True)


def cast(given: Any, dtype: torch.dtype, numbers: bool) -> Any:
    """Floating-point tensors, and whole numbers too where asked, in the network's type."""

    def change(tensor: Tensor) -> Tensor:
        if tensor.dtype.is_floating_point or (numbers and not tensor.dtype.is_complex):
            return tensor.to(dtype)
        return tensor

    return map_tensors(change, given)
