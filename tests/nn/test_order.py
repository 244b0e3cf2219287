"""The order of channels: the same maps in any memory format, in every kind of trace."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from ghostify.nn.ghost import GhostConv2d
from ghostify.nn.order import select_channels

FORMATS = [torch.contiguous_format, torch.channels_last]


def _maps(*shape: int, memory_format: torch.memory_format) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(*shape).contiguous(memory_format=memory_format)


@given(
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    memory_format=st.sampled_from(FORMATS),
    data=st.data(),
)
def test_channels_are_those_of_plain_indexing(shape, memory_format, data) -> None:
    order = torch.tensor(data.draw(st.lists(st.integers(0, shape[1] - 1), min_size=1, max_size=6)))
    maps = _maps(*shape, memory_format=memory_format)
    assert torch.equal(select_channels(maps, order), maps[:, order])


@pytest.mark.parametrize("memory_format", FORMATS)
def test_the_memory_format_stays(memory_format) -> None:
    maps = _maps(2, 6, 4, 4, memory_format=memory_format)
    made = select_channels(maps, torch.randperm(6))
    assert made.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
def test_gradients_are_those_of_plain_indexing(memory_format) -> None:
    order = torch.tensor([2, 0, 2, 1])
    maps = _maps(2, 3, 4, 4, memory_format=memory_format).requires_grad_()
    weight = torch.randn(2, 4, 4, 4)
    (wanted,) = torch.autograd.grad((maps[:, order] * weight).sum(), maps)
    (made,) = torch.autograd.grad((select_channels(maps, order) * weight).sum(), maps)
    torch.testing.assert_close(made, wanted)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("how", ["fx", "jit.trace", "jit.script", "export", "unbatched"])
def test_an_ordered_module_runs_as_it_is_in_every_trace(how, groups, memory_format) -> None:
    ghost = GhostConv2d(4, 12, 3, padding=1, groups=groups)
    ghost.set_order(torch.randperm(12))
    ghost = ghost.to(memory_format=memory_format).eval()
    x = _maps(2, 4, 6, 6, memory_format=memory_format)
    wanted = ghost(x)
    if how == "unbatched":
        torch.testing.assert_close(ghost(x[0]), wanted[0])
        return
    traced: nn.Module = {
        "fx": lambda: fx.symbolic_trace(ghost),
        "jit.trace": lambda: torch.jit.trace(ghost, x),
        "jit.script": lambda: torch.jit.script(ghost),
        "export": lambda: torch.export.export(ghost, (x,)).module(),
    }[how]()
    torch.testing.assert_close(traced(x), wanted)
    # What was traced with one format has to be right with the other.
    other = next(f for f in FORMATS if f != memory_format)
    torch.testing.assert_close(traced(x.contiguous(memory_format=other)), wanted)
