"""The form of a network's inputs as plain data: shapes and dtypes, nested as it takes them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ghostify.errors import shown
from ghostify.graph.inputs import Inputs

MOST_NUMBERS = 2**30
"""The most numbers of all tensors together."""

MOST_DIMENSIONS = 16

Plain = Any
"""Numbers, texts, lists and mappings."""


def describe_form(inputs: Inputs) -> Plain | None:
    """How the inputs are nested; None for plain images, and for what is no plain data.

    Example:
        >>> batch = {"image": torch.zeros(1, 3, 8, 8)}
        >>> describe_form(Inputs((batch,)))
        {'args': [{'dict': {'image': {'tensor': [1, 3, 8, 8], 'dtype': 'float32'}}}], 'kwargs': {}}
    """
    if not inputs.kwargs and all(_is_image(arg) for arg in inputs.args):
        return None
    try:
        args = [_describe(arg) for arg in inputs.args]
        return {"args": args, "kwargs": {k: _describe(v) for k, v in inputs.kwargs.items()}}
    except TypeError:
        return None


def parse_form(form: Plain) -> Inputs:
    """Inputs on the meta device of the form that `describe_form` gave.

    Raises:
        TypeError: It is no such form.
        ValueError: Likewise, or it is of more numbers than any image has.
    """
    if not isinstance(form, Mapping) or form.keys() != {"args", "kwargs"}:
        raise ValueError(f"form is {shown(form)}, and not args and kwargs")
    args, kwargs = form["args"], form["kwargs"]
    if not isinstance(args, list) or not isinstance(kwargs, Mapping):
        raise TypeError(f"form is {shown(form)}, and not a list of args, a mapping of kwargs")
    room = [MOST_NUMBERS]
    made = tuple(_parse(arg, room) for arg in args)
    return Inputs(made, {str(name): _parse(value, room) for name, value in kwargs.items()})


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype.is_floating_point


def _describe(value: Any) -> Plain:
    if isinstance(value, Tensor):
        return {"tensor": list(value.shape), "dtype": str(value.dtype).removeprefix("torch.")}
    if type(value) is list:
        return [_describe(item) for item in value]
    if type(value) is tuple:
        return {"tuple": [_describe(item) for item in value]}
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _describe(item) for key, item in value.items()}}
    if value is None or type(value) in (bool, int, str):
        return value
    if type(value) is float and math.isfinite(value):
        return value
    raise TypeError(f"{type(value).__name__} is no plain data")


def _parse(form: Plain, room: list[int]) -> Any:
    """``room``: how many numbers are left."""
    if isinstance(form, list):
        return [_parse(item, room) for item in form]
    if not isinstance(form, Mapping):
        if form is None or isinstance(form, bool | int | float | str):
            return form
        raise TypeError(f"{shown(form)} is no input")
    if form.keys() == {"tuple"} and isinstance(form["tuple"], list):
        return tuple(_parse(item, room) for item in form["tuple"])
    if form.keys() == {"dict"} and isinstance(form["dict"], Mapping):
        return {str(key): _parse(item, room) for key, item in form["dict"].items()}
    if form.keys() == {"tensor", "dtype"}:
        return _tensor(form["tensor"], form["dtype"], room)
    raise ValueError(f"{shown(form)} is no input")


def _tensor(shape: Any, dtype: Any, room: list[int]) -> Tensor:
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else None
    if not isinstance(kind, torch.dtype):
        raise TypeError(f"dtype is {shown(dtype)}, and none of PyTorch's")
    is_shape = isinstance(shape, list) and len(shape) <= MOST_DIMENSIONS
    if not is_shape or not all(type(n) is int and 0 <= n <= MOST_NUMBERS for n in shape):
        raise ValueError(f"tensor is {shown(shape)}, and no shape")
    room[0] -= math.prod(shape)
    if room[0] < 0:
        raise ValueError(f"the inputs are more than {MOST_NUMBERS:,} numbers")
    return torch.empty(shape, dtype=kind, device="meta")
