"""Moments of maps of white noise: as if each filter were shifted in a frame that holds it."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ghostify.warmstart.c_ghost.datafree import WhiteMoments

ROOM = 2  # as far as a kernel of five reaches


def in_a_frame(filters: Tensor, shifts: list[tuple[int, ...]], dilation: tuple[int, ...]) -> Tensor:
    """Filters under each shift, in a frame with room for all of them, ``(n, shifts, frame)``."""
    spread = filters.new_zeros(
        *filters.shape[:2],
        *((k - 1) * gap + 1 for k, gap in zip(filters.shape[2:], dilation, strict=True)),
    )
    spread[(..., *(slice(None, None, gap) for gap in dilation))] = filters
    frame = F.pad(spread, [ROOM] * 2 * len(dilation))
    dims = tuple(range(2, frame.ndim))
    return torch.stack([torch.roll(frame, shift, dims).flatten(1) for shift in shifts], dim=1)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_moments_are_those_of_filters_shifted_in_a_frame(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))

    def draw(most: int) -> tuple[int, ...]:
        return tuple(data.draw(st.integers(1, most)) for _ in range(dims))

    kernel, sizes, dilation = draw(4), draw(5), draw(3)
    torch.manual_seed(data.draw(st.integers(0, 99)))
    filters = torch.randn(3, 2, *kernel, dtype=torch.float64)
    taps = [*product(*(range(-(size // 2), size - size // 2) for size in sizes))]
    shifted = in_a_frame(filters, taps, dilation)
    (whole,) = in_a_frame(filters, [(0,) * dims], dilation).unbind(1)
    found = WhiteMoments.of(filters, sizes, dilation)
    assert torch.allclose(found.gram, shifted @ shifted.transpose(1, 2))
    assert torch.allclose(found.cross, shifted @ whole.T)
    assert torch.allclose(found.energy, whole.square().sum(1))


@pytest.mark.parametrize("d", [3, 5])
def test_shifts_of_a_pointwise_convolution_say_nothing_of_its_maps(d: int) -> None:
    found = WhiteMoments.of(torch.randn(4, 6, 1, 1), (d, d), (1, 1))
    middle = d * d // 2
    others = [tap for tap in range(d * d) if tap != middle]
    assert not found.cross[:, others].any()
    assert found.cross[:, middle].any()
