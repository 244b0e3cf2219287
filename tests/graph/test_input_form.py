"""The form of inputs is plain data, and comes back from it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ghostify.graph.input_form import describe_form, parse_form
from ghostify.graph.inputs import Inputs
from ghostify.numerics.nested import map_tensors


def meta(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    "inputs",
    [
        Inputs(({"a": meta(1, 3, 8, 8), "b": (meta(2), [meta(), True, None, "x", 0.5])},)),
        Inputs((meta(1, 4, dtype=torch.int64),)),
        Inputs((meta(1, 4),), {"mask": meta(1, 4, dtype=torch.bool)}),
        Inputs(([meta(3, 8, 9), meta(3, 7, 9)],)),
    ],
)
def test_nested_inputs_come_back(inputs: Inputs) -> None:
    form = describe_form(inputs)
    found = parse_form(form)
    plain = [
        map_tensors(lambda t: (tuple(t.shape), t.dtype), (x.args, x.kwargs))
        for x in (inputs, found)
    ]
    assert plain[0] == plain[1]
    assert describe_form(found) == form


def test_images_and_what_is_no_plain_data_have_no_form() -> None:
    assert describe_form(Inputs((meta(1, 3, 8, 8), meta(1, 1)))) is None
    assert describe_form(Inputs(({1, 2},))) is None
    assert describe_form(Inputs(({3: meta(1)},))) is None


@pytest.mark.parametrize(
    "form",
    [
        None,
        [],
        {"args": 3, "kwargs": {}},
        {"args": [], "kwargs": []},
        {"args": [{"tensor": [2**40], "dtype": "float32"}], "kwargs": {}},
        {"args": [{"tensor": [2**16, 2**16], "dtype": "float32"}], "kwargs": {}},
        {"args": [{"tensor": [-1], "dtype": "float32"}], "kwargs": {}},
        {"args": [{"tensor": [True], "dtype": "float32"}], "kwargs": {}},
        {"args": [{"tensor": [1], "dtype": "load"}], "kwargs": {}},
        {"args": [{"tensor": [1] * 17, "dtype": "float32"}], "kwargs": {}},
        {"args": [{"list": [1]}], "kwargs": {}},
    ],
)
def test_what_is_no_form_is_refused(form: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        parse_form(form)
