"""A segmentation network made cheaper and tuned by its own loss: a small U-Net on drawn shapes.

    python examples/segmentation.py

Each image shows a disc, a rectangle and a triangle on noise; each pixel has a class. The network is
trained for some steps, converted with a warm start, and tuned beside its original. Half a minute on
one core.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ghostify
from ghostify.documents import amount

CLASSES = ("background", "disc", "rectangle", "triangle")
Scenes = tuple[Tensor, Tensor]
"""Images ``(N, 3, size, size)``, and the class of each pixel, ``(N, size, size)``."""


class UNet(nn.Module):
    """A U-Net of three levels: what is seen on the way down is read again on the way up."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.down = nn.ModuleList([
            self.block(3, width), self.block(width, 2 * width), self.block(2 * width, 4 * width)
        ])  # fmt: skip
        self.up = nn.ModuleList([self.block(6 * width, 2 * width), self.block(3 * width, width)])
        self.head = nn.Conv2d(width, len(CLASSES), 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Sequential:
        """Two convolutions with norms."""
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            layers += [nn.Conv2d(channels, outputs, 3, padding=1, bias=False)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        return nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 3, H, W)`` to the scores of each pixel, ``(N, classes, H, W)``."""
        first = self.down[0](x)
        second = self.down[1](F.max_pool2d(first, 2))
        deepest = self.down[2](F.max_pool2d(second, 2))
        x = self.up[0](torch.cat([second, F.interpolate(deepest, scale_factor=2)], 1))
        x = self.up[1](torch.cat([first, F.interpolate(x, scale_factor=2)], 1))
        return self.head(x)


def draw(count: int, seed: int, size: int = 32) -> Scenes:
    """Scenes of three shapes each, later ones in front; their colours tell nothing."""
    chance = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    images = torch.rand(count, 3, size, size, generator=chance)
    classes = torch.zeros(count, size, size, dtype=torch.long)
    for image, pixels in zip(images, classes, strict=True):
        for kind in (torch.randperm(3, generator=chance) + 1).tolist():
            left, top = torch.randint(size - 14, (2,), generator=chance).tolist()
            wide, high = torch.randint(8, 15, (2,), generator=chance).tolist()
            across, down = (x - left) / wide, (y - top) / high
            inside = (across >= 0) & (across < 1) & (down >= 0) & (down < 1)
            if kind == 1:
                inside = (across - 0.5) ** 2 + (down - 0.5) ** 2 < 0.25
            elif kind == 3:
                inside &= (across - 0.5).abs() < down / 2
            image[:, inside] += torch.rand(3, 1, generator=chance)
            pixels[inside] = kind
    return images, classes


def loss(network: nn.Module, batch: Scenes) -> dict[str, Tensor]:
    """Cross-entropy of the pixels, and one minus the overlap of scores and classes (Dice)."""
    images, classes = batch
    scores = network(images)
    wanted = F.one_hot(classes, len(CLASSES)).movedim(3, 1)
    found = scores.softmax(1)
    overlap = 2 * (found * wanted).sum((0, 2, 3)) / (found + wanted).sum((0, 2, 3))
    return {"pixels": F.cross_entropy(scores, classes), "dice": 1 - overlap.mean()}


def miou(network: nn.Module, batches: list[Scenes]) -> dict[str, float]:
    """Intersection over union of what is found and what is there, the mean over all classes."""
    both, either = torch.zeros(len(CLASSES)), torch.zeros(len(CLASSES))
    for images, classes in batches:
        found = network(images).argmax(1)
        for kind in range(len(CLASSES)):
            both[kind] += ((found == kind) & (classes == kind)).sum()
            either[kind] += ((found == kind) | (classes == kind)).sum()
    return {"miou": float((both / either.clamp_min(1)).mean())}


def train(network: nn.Module, scenes: Scenes, steps: int) -> None:
    """Train the original: a plain loop."""
    optimizer = torch.optim.AdamW(network.parameters(), 0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=steps)
    chance = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(scenes[0]), (16,), generator=chance)
        optimizer.zero_grad()
        sum(loss(network, (scenes[0][chosen], scenes[1][chosen])).values()).backward()
        optimizer.step()
        schedule.step()


def main() -> None:
    """Train, convert, tune; print what it costs and how well it does, all the while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="of the original's training")
    parser.add_argument("--tuning", type=int, default=100, help="steps of tuning")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    scenes, held_out = draw(256, seed=1), draw(64, seed=2)

    original = UNet()
    train(original, scenes, arguments.steps)
    original.eval()
    converted = ghostify.convert(
        original, s=2, d=3, input_size=(3, 32, 32), calibration=scenes[0][:64]
    )
    tuned = ghostify.finetune(
        converted, scenes, teacher=original, loss=loss, metric=miou, val=held_out,
        steps=arguments.tuning, batch_size=16, optimizer="adamw", lr=0.01, features=10.0,
        validate_steps=25,
    )  # fmt: skip

    costs = ghostify.report(converted)
    print(f"{'':12}{'params':>8}{'MACs':>8}{'mIoU':>8}")
    for name, count, found in (
        ("original", costs.before, miou(original, [held_out])["miou"]),
        ("warm start", costs.after, tuned.before.value),
        ("tuned", costs.after, tuned.validation.value),
    ):
        print(f"{name:12}{amount(count.params):>8}{amount(count.macs):>8}{found:8.3f}")
    print(*tuned.describe(), sep="\n")


if __name__ == "__main__":
    main()
