"""What tests of all floors share: the real data, and small networks that don't come from a zoo."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ghostify
from ghostify.models.cifar import IMAGENET_MEAN, IMAGENET_STD
from ghostify.warmstart import cold
from ghostify.warmstart.allocation import layers

CIFAR10 = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

Images = tuple[Tensor, Tensor]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Measured times of a test run are not the user's."""
    os.environ.setdefault("GHOSTIFY_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(autouse=True)
def strict_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that fails for another reason than its numbers is an error, and not a note."""
    monkeypatch.setattr(cold, "FAILURES", cold.NO_NUMBERS)
    monkeypatch.setattr(layers, "FAILURES", ())


@pytest.fixture
def lenient_fits(strict_fits: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit that fails leaves its layer as the conversion left it, as users have it."""
    monkeypatch.setattr(cold, "FAILURES", (*cold.NO_NUMBERS, *cold.REFUSALS))
    monkeypatch.setattr(layers, "FAILURES", cold.REFUSALS)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real images and trained weights; tests that need it skip without it."""
    named = os.environ.get("GHOSTIFY_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: name its folder in GHOSTIFY_DATA")
    return folder


@pytest.fixture(scope="session")
def cifar_test(data_dir: Path) -> Images:
    """1,000 real CIFAR-10 test images, the first 100 of each class.

    Normalised as the trained networks take them, ``(1000, 3, 32, 32)``, and their labels,
    ``(1000,)``.
    """
    arrays, labels = [], []
    with tarfile.open(data_dir / "cifar10-jpeg.tar.gz") as archive:
        for member in archive:
            folder, _, rest = member.name.partition("/")
            kind, _, file = rest.partition("/")
            if folder == "test" and member.isfile() and int(Path(file).stem) < 100:
                stream = archive.extractfile(member)
                assert stream is not None
                arrays.append(np.asarray(Image.open(stream).convert("RGB")))
                labels.append(CIFAR10.index(kind))
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return (pixels - mean) / std, torch.tensor(labels)


@pytest.fixture(scope="session")
def accuracy(cifar_test: Images) -> Callable[[nn.Module], float]:
    """Top-1 accuracy of a network, in eval mode, on those 1,000 images."""
    images, labels = cifar_test

    def measure(model: nn.Module) -> float:
        model.eval()
        with torch.no_grad():
            scores = torch.cat([model(batch) for batch in images.split(250)])
        return float((scores.argmax(1) == labels).float().mean())

    return measure


@pytest.fixture(scope="session")
def trained_resnet20(data_dir: Path) -> nn.Module:
    """The trained ResNet-20 of the data folder, in eval mode; not to be changed."""
    weights = data_dir / "resnet20-cifar10.safetensors"
    return ghostify.build("resnet20-cifar", weights=weights).eval()


class SmallNet(nn.Module):
    """Three convolutions with norms, a residual connection, a head: a CNN that runs in a moment."""

    def __init__(self, width: int = 16, classes: int = 5, bias: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(width)
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=bias), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.last = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=bias)
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to ``(N, classes)``."""
        x = torch.relu(self.norm(self.stem(x)))
        x = self.last(self.body(x) + x)
        return self.head(x.mean((2, 3)))


@pytest.fixture
def small_net() -> nn.Module:
    """A fresh `SmallNet`, weights from a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SmallNet()


@pytest.fixture
def make_small_net() -> type[SmallNet]:
    """The class `SmallNet`."""
    return SmallNet


@pytest.fixture
def write_images() -> Callable[..., Path]:
    """Writes a folder of class folders with images of noise."""

    def write(folder: Path, classes: dict[str, int], size: tuple[int, int] = (16, 16)) -> Path:
        chance = np.random.default_rng(0)
        for name, count in classes.items():
            (folder / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                pixels = chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / name / f"{number:03}.png")
        return folder

    return write
