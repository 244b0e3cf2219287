"""A tiny saved network, and what loading a damaged one may come to."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn

import ghostify
from ghostify import GhostifyError
from tests.fuzz.exploring import at_most

IMAGE = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(2))
SECONDS, GIGABYTES = 30, 1.0


class Block(nn.Module):
    """A residual block."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(c, c, 3, padding=1), nn.BatchNorm2d(c)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.norm(self.conv(x)))


def tiny() -> nn.Module:
    """The original: a stem, a stage, a head; its weights alike each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage = nn.Sequential(*(Block(8) for _ in range(3)))
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
        return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), stage, head).eval()


def converted(mode: str) -> nn.Module:
    """The tiny network, converted."""
    return ghostify.convert(tiny(), mode=mode, input_size=(3, 8, 8))


@cache
def saved(mode: str) -> tuple[str, str, bytes]:
    """Of the saved tiny network: recipe, name of the weights, weights."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = ghostify.save(converted(mode), Path(folder) / "out")
        (weights,) = path.glob("*.safetensors")
        return (path / "recipe.yaml").read_text(), weights.name, weights.read_bytes()


def recipe_of(mode: str) -> dict[str, Any]:
    """The recipe as data."""
    data: dict[str, Any] = yaml.safe_load(saved(mode)[0])
    return data


def with_checksum(mode: str, weights: bytes) -> str:
    """The recipe, its checksum that of other weights."""
    return saved(mode)[0].replace(_digest(saved(mode)[2]), _digest(weights))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def check_load(folder: Path, recipe: bytes, weights: bytes, name: str) -> None:
    """A folder of these files loads as what they say, or is refused in one sentence."""
    folder.mkdir()
    (folder / "recipe.yaml").write_bytes(recipe)
    (folder / name).write_bytes(weights)
    with at_most(SECONDS, GIGABYTES):
        try:
            network = ghostify.load(folder, tiny())
        except GhostifyError as error:
            assert str(error) and "\n" not in str(error), error
            return
        state, told = network.state_dict(), load_file(folder / name)
        assert state.keys() == told.keys()
        assert all(torch.equal(_nan_free(state[key]), _nan_free(told[key])) for key in told)
        dtypes = {t.dtype for t in state.values() if t.is_floating_point()}
        assert len(dtypes) > 1 or _output(network, *dtypes).shape == (1, 4)


def _nan_free(tensor: Tensor) -> Tensor:
    return torch.nan_to_num(tensor)


def _output(network: nn.Module, dtype: torch.dtype) -> Tensor:
    with torch.no_grad():
        output: Tensor = network.eval()(IMAGE.to(dtype))
        return output
