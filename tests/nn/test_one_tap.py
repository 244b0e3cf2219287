"""A cheap operation of one tap: one operation for all maps, on one thread too."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import ghostify
from ghostify.deploy import fuse

MAPS = 64


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def most_calls(network: nn.Module, x: Tensor) -> int:
    """How often PyTorch does the operation that it does most often."""
    with torch.inference_mode(), profile(activities=[ProfilerActivity.CPU]) as seen:
        network(x)
    return max(event.count for event in seen.key_averages())


CONVS = [
    (nn.Conv1d(4, MAPS, 3), (1, 4, 9)),
    (nn.Conv2d(4, MAPS, 3), (1, 4, 9, 9)),
    (nn.Conv3d(4, MAPS, 3), (1, 4, 5, 5, 5)),
    (nn.ConvTranspose2d(4, MAPS, 3), (1, 4, 9, 9)),
    (nn.Linear(4, MAPS), (1, 4)),
]


KINDS = [type(layer).__name__ for layer, _ in CONVS]


@pytest.mark.parametrize(("layer", "shape"), CONVS, ids=KINDS)
def test_it_is_not_done_map_by_map(
    one_thread: None, layer: nn.Module, shape: tuple[int, ...]
) -> None:
    x = torch.randn(shape)
    made = ghostify.convert(nn.Sequential(layer), d=1, s=4, linear=True, example_inputs=(x,))
    assert most_calls(made.eval(), x) < MAPS / 4
    assert most_calls(fuse(made), x) < MAPS / 4


def test_it_is_what_one_tap_without_gaps_gives() -> None:
    made = ghostify.convert(nn.Conv2d(4, MAPS, 3), d=1, s=4, input_size=(4, 9, 9))
    plain = nn.Conv2d(16, 48, 1, groups=16)
    plain.load_state_dict(made.cheap.state_dict())
    x = torch.randn(2, 16, 7, 7)
    torch.testing.assert_close(made.cheap(x), plain(x))
