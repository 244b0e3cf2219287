"""The walk over nested structures finds each tensor and puts others into its place."""

from __future__ import annotations

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from ghostify.numerics.nested import map_tensors, open_nested, tensors_in

Pair = namedtuple("Pair", "one two")


@dataclass(frozen=True)
class Frozen:
    tensor: Tensor
    inside: Any = None
    text: str = "x"
    later: int = field(init=False, default=3)


A, B = torch.ones(2), torch.zeros(3)


@pytest.mark.parametrize(
    "value",
    [
        (A, [B, None, 3]),
        {"a": A, "b": {"c": B}},
        OrderedDict(a=A, b=B),
        Pair(A, B),
        Frozen(A, [Frozen(B)]),
        UserDict({"a": A, "b": (B,)}),
        [Frozen(A), UserDict(c=Pair(B, 1))],
    ],
)
def test_tensors_are_found_in_order_and_replaced(value: Any) -> None:
    assert [x is y for x, y in zip(tensors_in(value), (A, B), strict=True)] == [True, True]
    doubled = map_tensors(lambda tensor: tensor * 2 + 1, value)
    assert type(doubled) is type(value)
    found = tensors_in(doubled)
    assert torch.equal(found[0], A * 2 + 1) and torch.equal(found[1], B * 2 + 1)
    assert tensors_in(value)[0] is A
    frame = open_nested(value)[1]
    assert frame.is_like(open_nested(doubled)[1])
    assert not frame.is_like(open_nested((A, B, "other"))[1])


def test_structures_that_differ_beside_their_tensors_are_not_alike() -> None:
    one, other = (open_nested({"a": A, "size": size})[1] for size in ((1, 2), (1, 3)))
    assert not one.is_like(other)
    assert one.is_like(open_nested({"a": B, "size": (1, 2)})[1])
    assert not open_nested(Frozen(A, text="x"))[1].is_like(open_nested(Frozen(A, text="y"))[1])
