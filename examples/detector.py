"""A detector made cheaper and tuned by its own loss: boxes around drawn rectangles.

    python examples/detector.py

Each image shows some rectangles on noise; the colour tells the class. The detector has no anchors:
each cell of a grid says which class has its middle there, and how far off the four sides are. It is
trained for some steps, converted, and tuned beside its original. Half a minute on one core.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import ghostify
from ghostify.documents import amount

CLASSES, SIZE, STRIDE = 3, 64, 8
Target = dict[str, Tensor]
"""``boxes``, ``(K, 4)`` as left, top, right, bottom, and their ``labels``, ``(K,)``."""
Batch = tuple[Tensor, list[Target]]


class Block(nn.Module):
    """A residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, width, H, W)`` to the same."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(x + self.norm2(self.conv2(y)))


class Detector(nn.Module):
    """A backbone of three strides and blocks; a head for classes and one for sides."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((3, width // 4), (width // 4, width // 2), (width // 2, width)):
            layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs)]
            layers += [nn.ReLU(), Block(outputs)]
        self.backbone = nn.Sequential(*layers)
        self.classes = nn.Conv2d(width, CLASSES, 1)
        self.sides = nn.Conv2d(width, 4, 1)
        nn.init.constant_(self.classes.bias, -3.0)  # most cells hold nothing

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images ``(N, 3, H, W)`` to scores ``(N, classes, h, w)`` and boxes ``(N, h, w, 4)``."""
        maps = self.backbone(images)
        left, top, right, bottom = (STRIDE * self.sides(maps).exp()).unbind(1)
        middle = STRIDE * (torch.arange(maps.shape[-1], device=maps.device) + 0.5)
        x, y = middle[None, :], middle[:, None]
        return self.classes(maps), torch.stack([x - left, y - top, x + right, y + bottom], 3)

    @torch.no_grad()
    def detect(self, images: Tensor, threshold: float = 0.3) -> list[Target]:
        """The boxes where a cell's score is higher than those around it."""
        scores, boxes = self(images)
        peaks = F.max_pool2d(scores, 3, 1, 1)
        found = (scores == peaks) & (scores.sigmoid() > threshold)
        return [
            {"boxes": sides[cells.any(0)], "labels": score.argmax(0)[cells.any(0)]}
            for score, cells, sides in zip(scores, found, boxes, strict=True)
        ]


class Rectangles(Dataset):
    """Images of one to three rectangles; the same ones for the same seed."""

    def __init__(self, count: int, seed: int) -> None:
        chance = torch.Generator().manual_seed(seed)
        self.items = [self._draw(chance) for _ in range(count)]

    @staticmethod
    def _draw(chance: torch.Generator) -> tuple[Tensor, Target]:
        image = 0.5 * torch.rand(3, SIZE, SIZE, generator=chance)
        boxes, labels = [], []
        for _ in range(int(torch.randint(1, 4, (), generator=chance))):
            wide, high = torch.randint(12, 28, (2,), generator=chance).tolist()
            left = int(torch.randint(SIZE - wide, (), generator=chance))
            top = int(torch.randint(SIZE - high, (), generator=chance))
            labels.append(int(torch.randint(CLASSES, (), generator=chance)))
            boxes.append([left, top, left + wide, top + high])
            image[:, top : top + high, left : left + wide] *= 0.5
            image[labels[-1], top : top + high, left : left + wide] += 0.5
        return image, {"boxes": torch.tensor(boxes).float(), "labels": torch.tensor(labels)}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        return self.items[index]

    @staticmethod
    def collate_fn(items: list[tuple[Tensor, Target]]) -> Batch:
        """One tensor of images, and a list of targets: each image has boxes of its own number."""
        images, targets = zip(*items, strict=True)
        return torch.stack(images), list(targets)


def overlaps(some: Tensor, others: Tensor) -> Tensor:
    """Intersection over union of boxes ``(..., 4)`` and ``(..., 4)``."""
    first = torch.maximum(some[..., :2], others[..., :2])
    both = (torch.minimum(some[..., 2:], others[..., 2:]) - first).clamp_min(0).prod(-1)
    areas = ((boxes[..., 2:] - boxes[..., :2]).prod(-1) for boxes in (some, others))
    return both / (sum(areas) - both).clamp_min(1e-6)


def loss(network: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Focal loss of the classes in all cells, and one minus the overlap where a middle is."""
    images, targets = batch
    scores, boxes = network(images)
    image = torch.cat([torch.full_like(t["labels"], n) for n, t in enumerate(targets)])
    wanted, labels = (torch.cat([t[name] for t in targets]) for name in ("boxes", "labels"))
    column, row = ((wanted[:, :2] + wanted[:, 2:]) / 2 / STRIDE).long().unbind(1)
    there = torch.zeros_like(scores)
    there[image, labels, row, column] = 1.0
    missed = (there - scores.sigmoid()).abs()
    entropy = F.binary_cross_entropy_with_logits(scores, there, reduction="none")
    return {
        "classes": (missed**2 * entropy).sum() / len(labels),
        "boxes": (1 - overlaps(boxes[image, row, column], wanted)).mean(),
    }


def f1(network: Detector, batches: Iterable[Batch]) -> dict[str, float]:
    """How many boxes are found (of their class, overlap of a half), and how many are right."""
    hits = found = there = 0
    for images, targets in batches:
        for made, wanted in zip(network.detect(images), targets, strict=True):
            same = made["labels"][:, None] == wanted["labels"]
            fits = same & (overlaps(made["boxes"][:, None], wanted["boxes"]) > 0.5)
            hits += int(fits.any(0).sum())
            found += len(made["labels"])
            there += len(wanted["labels"])
    return {"f1": 2 * hits / max(found + there, 1), "recall": hits / there}


def train(network: nn.Module, data: Dataset, steps: int) -> None:
    """Train the original: a plain loop."""
    optimizer = torch.optim.AdamW(network.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=steps)
    loader = DataLoader(data, 16, shuffle=True, drop_last=True, collate_fn=data.collate_fn)
    while schedule.last_epoch < steps:
        for batch, _ in zip(loader, range(steps - schedule.last_epoch), strict=False):
            optimizer.zero_grad()
            sum(loss(network, batch).values()).backward()
            optimizer.step()
            schedule.step()


def main() -> None:
    """Train, convert, tune; print what it costs and how well it does, all the while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=300, help="of the original's training")
    parser.add_argument("--tuning", type=int, default=150, help="steps of tuning")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    data, held_out = Rectangles(512, seed=1), Rectangles(128, seed=2)

    original = Detector()
    train(original, data, arguments.steps)
    original.eval()
    converted = ghostify.convert(original, s=2, d=3, input_size=(3, SIZE, SIZE))
    tuned = ghostify.finetune(
        converted, data, teacher=original, loss=loss, metric=f1, val=held_out,
        steps=arguments.tuning, batch_size=16, optimizer="adamw", lr=5e-3, features=10.0,
        validate_steps=25,
    )  # fmt: skip

    costs = ghostify.report(converted)
    trained = f1(original, [held_out.collate_fn(held_out.items)])
    print(f"{'':12}{'params':>8}{'MACs':>8}{'F1':>8}{'recall':>8}")
    for name, count, figures in (
        ("original", costs.before, trained),
        ("converted", costs.after, tuned.before.figures),
        ("tuned", costs.after, tuned.validation.figures),
    ):
        shown = "".join(f"{figure:8.3f}" for figure in figures.values())
        print(f"{name:12}{amount(count.params):>8}{amount(count.macs):>8}{shown}")
    print(*tuned.describe(), sep="\n")


if __name__ == "__main__":
    main()
