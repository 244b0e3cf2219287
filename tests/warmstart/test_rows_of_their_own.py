"""Networks inside which a batch has other rows than samples: frames, patches, two at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.saving.history import history_of


class Body(nn.Module):
    """A residual block behind a stem; one of its sums, norms and layers of each kind."""

    def __init__(self, conv: type[nn.Module] = nn.Conv2d, norm: type = nn.BatchNorm2d) -> None:
        super().__init__()
        self.stem, self.norm = conv(3, 16, 3, padding=1, bias=False), norm(16)
        self.first, self.second = conv(16, 16, 3, padding=1), conv(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return x + self.second(torch.relu(self.first(x)))


class Around(nn.Module):
    """A body whose rows are what ``inside`` makes of the samples."""

    def __init__(
        self,
        inside: Callable[[Tensor], Tensor],
        outside: Callable[[Tensor, int], Any],
        **kinds: Any,
    ) -> None:
        super().__init__()
        self.inside, self.outside = inside, outside
        self.body, self.head = Body(**kinds), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Any:
        maps = self.body(self.inside(x))
        return self.outside(self.head(maps.flatten(2).mean(2)), len(x))


def by_sample(rows: Tensor, samples: int) -> Tensor:
    return rows.unflatten(0, (samples, -1)).mean(1)


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "frames of a video": (
        lambda: Around(lambda x: x.flatten(0, 1), by_sample),
        (4, 3, 8, 8),
    ),
    "patches of an image": (
        lambda: Around(
            lambda x: x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(0, 2),
            by_sample,
        ),
        (3, 16, 16),
    ),
    "an image and its mirror image": (
        lambda: Around(lambda x: torch.cat([x, x.flip(3)]), lambda rows, n: rows[:n] + rows[n:]),
        (3, 8, 8),
    ),
    "a row that all samples have in common": (
        lambda: Around(
            lambda x: torch.cat([x, x.mean(0, keepdim=True)]),
            lambda rows, n: rows[:n] + 0.1 * rows[n:],
        ),
        (3, 8, 8),
    ),
    "every other sample": (
        lambda: Around(lambda x: x[::2], lambda rows, _: rows),
        (3, 8, 8),
    ),
    "pieces of a sound": (
        lambda: Around(
            lambda x: x.unflatten(2, (4, -1)).movedim(2, 1).flatten(0, 1), by_sample,
            conv=nn.Conv1d, norm=nn.BatchNorm1d,
        ),
        (3, 64),
    ),
}  # fmt: skip


def network_of(case: str) -> tuple[nn.Module, Tensor]:
    make, shape = NETWORKS[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network, data = make().eval(), torch.randn(96, *shape)
    return network, data


def lost(network: nn.Module, converted: nn.Module, data: Tensor) -> float:
    with torch.no_grad():
        wanted, made = network(data), converted.eval()(data)
    return float((made - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize("case", NETWORKS)
@pytest.mark.parametrize("count", [6, 80])
def test_they_are_fitted_to_all_their_rows(case: str, count: int) -> None:
    network, data = network_of(case)
    options = {"s": 2, "example_inputs": data[:2]}
    warm = ghostify.convert(network, calibration=data[:count], **options)
    cold = ghostify.convert(network, **options)
    start = history_of(warm).start
    assert start is not None and set(start.errors) == {"body.stem", "body.first", "body.second"}
    assert lost(network, warm, data[80:]) < 0.3 * lost(network, cold, data[80:])


@pytest.mark.parametrize("case", NETWORKS)
def test_their_blocks_are_reconstructed(case: str) -> None:
    network, data = network_of(case)
    calibration = ghostify.Calibration(data, minutes=1.0, block_steps=2, network_steps=2)
    made = ghostify.convert(network, s=2, calibration=calibration, example_inputs=data[:2])
    start = history_of(made).start
    assert start is not None and set(start.errors) == {"body.stem", "body.first", "body.second"}
    assert lost(network, made, data) < 0.1


@pytest.mark.parametrize("case", ["frames of a video", "pieces of a sound"])
def test_frames_are_fitted_as_the_same_frames_alone(case: str) -> None:
    network, data = network_of(case)
    frames = network.inside(data)
    alone = ghostify.convert(network.body, s=2, calibration=frames, example_inputs=frames[:2])
    made = ghostify.convert(network, s=2, calibration=data, example_inputs=data[:2])
    one, other = history_of(alone).start, history_of(made).start
    assert one is not None and other is not None
    for name, error in one.errors.items():
        assert other.errors[f"body.{name}"] == pytest.approx(error, rel=0.15)


def test_a_list_of_batches_is_read_batch_by_batch() -> None:
    network, data = network_of("pieces of a sound")
    batches = [(data[i : i + 8], torch.zeros(8)) for i in range(0, 96, 8)]
    made = ghostify.convert(network, s=2, calibration=batches, example_inputs=data[:2])
    start = history_of(made).start
    assert start is not None and "warm start from 96 " in " ".join(start.notes)
