"""Widths in arguments are scaled as the channels of the input are."""

import operator

import pytest
import torch
from torch import fx

from ghostify.thinning.rescaling import rescaled_arguments
from ghostify.thinning.values import Value


def first_try(target, args, kwargs=None, is_method=False):
    """The first arguments for a call on a map that is half as wide, its input left out."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    call = graph.call_method if is_method else graph.call_function
    node = call(target, (x, *args), kwargs or {})
    values = {x: Value(torch.empty(1, 16, 4, 4), torch.empty(1, 8, 4, 4))}
    found, keywords = next(rescaled_arguments(node, values))
    return found[1:], keywords


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((8, 1), {}, ((4, 1), {})),
        (([4, 12], -3), {}, (([2, 6], -3), {})),
        ((8,), {"dim": 1}, ((4,), {"dim": 1})),
        ((), {"split_size": 8, "dim": 1}, ((), {"split_size": 4, "dim": 1})),
        ((2, 2), {}, ((2, 2), {})),
    ],
)
def test_a_split_along_the_channels_has_scaled_sizes(args, kwargs, expected) -> None:
    assert first_try("split", args, kwargs, is_method=True) == expected


@pytest.mark.parametrize(
    ("args", "kwargs", "expected"),
    [
        ((1, 4, 12), {}, ((1, 2, 6), {})),
        ((1,), {"start": 4, "length": 12}, ((1,), {"start": 2, "length": 6})),
        ((2, 1, 2), {}, ((2, 1, 2), {})),
    ],
)
def test_a_narrowed_map_has_a_scaled_start_and_length(args, kwargs, expected) -> None:
    assert first_try(torch.narrow, args, kwargs) == expected


def test_a_slice_of_the_channels_is_scaled_and_one_of_the_places_is_not() -> None:
    index = (slice(None), slice(8, None), slice(0, 2))
    (found,), _ = first_try(operator.getitem, (index,))
    assert found == (slice(None), slice(4, None), slice(0, 2))


def test_an_unknown_op_is_tried_with_one_number_scaled_at_a_time() -> None:
    graph = fx.Graph()
    x = graph.placeholder("x")
    node = graph.call_method("view", (x, 1, 2, 8, 4, 4))
    values = {x: Value(torch.empty(1, 16, 4, 4), torch.empty(1, 8, 4, 4))}
    tries = [args[1:] for args, _ in rescaled_arguments(node, values)]
    assert tries[:2] == [(1, 1, 8, 4, 4), (1, 2, 4, 4, 4)]
