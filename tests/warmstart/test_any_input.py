"""Calibration takes what the network takes, and fits to whatever it gives."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ghostify
from ghostify.saving.history import history_of


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def body() -> nn.Sequential:
    """Two convolutions whose filters are easy for ghosts: half of them are multiples."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
    with torch.no_grad():
        for conv in (net[0], net[2]):
            conv.weight[8:] = conv.weight[:8] * torch.linspace(0.5, 2, 8).view(-1, 1, 1, 1)
    return net


X = noise(24, 3, 12, 12)
FRESH = noise(4, 3, 12, 12, seed=1)


class Net(nn.Module):
    """A body, and any forward around it."""

    def __init__(self, forward: Callable[..., Any] | None = None) -> None:
        super().__init__()
        self.body, self.head = body(), nn.Conv2d(16, 4, 1)


def convert(net: nn.Module, calibration: Any, **options: Any) -> nn.Module:
    return ghostify.convert(net.eval(), calibration=calibration, keep=["*head*"], **options)


def errors(made: nn.Module) -> dict[str, float]:
    start = history_of(made).start
    assert start is not None
    return dict(start.errors)


def assert_fitted(made: nn.Module) -> None:
    found = errors(made)
    assert set(found) >= {"body.0", "body.2"}
    assert max(found.values()) < 0.1


@dataclass
class Boxes:
    maps: Tensor
    names: str = "two"


class Two(Net):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.head(self.body(a) - self.body(b))


class Optional(Net):
    def forward(self, x: Tensor, flag: bool = True, mask: Tensor | None = None) -> Tensor:
        x = self.head(self.body(x))
        if mask is not None:
            x = x.masked_fill(mask[:, None] < 0, 0.0)
        return x if flag else -x


class FromDict(Net):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.head(self.body(batch["image"])) * batch["scale"].view(-1, 1, 1, 1)


class Keywords(Net):
    def forward(self, *, pixels: Tensor, scale: Tensor) -> Tensor:
        return self.head(self.body(pixels)) * scale.view(-1, 1, 1, 1)


class OfList(Net):
    """As torchvision's detection networks: a list of images of any size; a dict for each."""

    def forward(self, images: list[Tensor], targets: Any = None) -> list[dict[str, Tensor]]:
        if not isinstance(images, list | tuple):
            raise TypeError("give a list")
        return [{"map": self.head(self.body(image[None]))[0]} for image in images]


SCALE = torch.linspace(0.5, 2, 24)
CASES: dict[str, tuple[nn.Module, Any, Any]] = {
    "two tensors": (Two(), (X, X.flip(0)), (X, X)),
    "two tensors of a loader": (Two(), DataLoader(list(zip(X, X.flip(0))), 5), (X, X)),
    "two tensors and a label": (Two(), [((a, a.flip(1)), 1) for a in X], (X, X)),
    "one tensor and its label": (Optional(), [(a, 3) for a in X], (X,)),
    "a tensor and a label in a pair": (Optional(), DataLoader([(a, 3) for a in X], 5), (X,)),
    "dict as one argument": (
        FromDict(),
        {"image": X, "scale": SCALE},
        ({"image": X, "scale": SCALE},),
    ),
    "dicts of a data set": (
        FromDict(),
        [{"image": a, "scale": b} for a, b in zip(X, SCALE)],
        ({"image": X, "scale": SCALE},),
    ),
    "keywords": (Keywords(), {"pixels": X, "scale": SCALE}, {"pixels": X, "scale": SCALE}),
    "keywords beside labels": (
        Keywords(),
        DataLoader([{"pixels": a, "scale": b, "labels": 2} for a, b in zip(X, SCALE)], 7),
        {"pixels": X, "scale": SCALE},
    ),
    "a list of images": (
        OfList(),
        [noise(3, 8 + i % 3, 9, seed=i) for i in range(24)],
        ([noise(3, 8, 9), noise(3, 7, 9)],),
    ),
    "a loader of lists of images": (
        OfList(),
        [
            ([noise(3, 8 + i % 3, 9, seed=i + j) for j in range(3)], [{}] * 3)
            for i in range(0, 24, 3)
        ],
        ([noise(3, 8, 9), noise(3, 7, 9)],),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("minutes", [0.0, 1.0])
def test_inputs_of_any_kind_are_taken(case: str, minutes: float) -> None:
    net, data, example = CASES[case]
    if case == "a loader of lists of images":
        data = iter(data)
    calibration = ghostify.Calibration(data, minutes=minutes, block_steps=2, network_steps=2)
    made = convert(net, calibration, example_inputs=example)
    assert_fitted(made)
