"""The paper's networks as backbones of torchvision's RetinaNet (Table 10), trained for some steps.

    python examples/detection_backbone.py

The image and its box are synthetic: the example shows that everything fits together and learns.
"""

from __future__ import annotations

from collections.abc import Callable

import ghostify  # noqa: F401  # isort: skip  (mends a torchvision whose compiled ops don't load)
import torch
from torch import Tensor
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ghostify.models import FeaturePyramid, c_ghostnet, g_ghostnet


def with_pyramid(backbone: FeaturePyramid, out_channels: int = 64) -> BackboneWithFPN:
    """A feature pyramid network on a backbone's stages: RetinaNet's levels P3 to P7."""
    layers = {f"stage{number}": str(level) for level, number in enumerate(backbone.stages)}
    extra = LastLevelP6P7(out_channels, out_channels)
    return BackboneWithFPN(backbone, layers, list(backbone.channels), out_channels, extra)


def retinanet(build: Callable[..., FeaturePyramid], size: int, **arguments: float) -> RetinaNet:
    """RetinaNet for two classes on the maps of a backbone's stages 2 to 4."""
    backbone = build(features_only=True, stages=(2, 3, 4), **arguments)
    scales = tuple(
        (x, int(x * 2 ** (1 / 3)), int(x * 2 ** (2 / 3))) for x in (16, 32, 64, 128, 256)
    )
    anchors = AnchorGenerator(scales, ((0.5, 1.0, 2.0),) * len(scales))
    return RetinaNet(
        with_pyramid(backbone), num_classes=2, anchor_generator=anchors,
        min_size=size, max_size=size,
    )  # fmt: skip


def synthetic_batch(size: int) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """An image of a bright square on noise, with the square's box and class."""
    generator = torch.Generator().manual_seed(0)
    image = 0.2 * torch.rand(3, size, size, generator=generator)
    low, high = size // 4, 3 * size // 4
    image[:, low:high, low:high] = 1
    box = torch.tensor([[low, low, high, high]], dtype=torch.float32)
    return [image], [{"boxes": box, "labels": torch.tensor([1])}]


def train(detector: RetinaNet, steps: int, size: int) -> list[float]:
    """The total loss of each step."""
    images, targets = synthetic_batch(size)
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.02, momentum=0.9)
    detector.train()
    losses = []
    for _ in range(steps):
        loss = sum(detector(images, targets).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def main(steps: int = 5, size: int = 96) -> None:
    """Train each a step or a few; print the losses."""
    for build in (c_ghostnet, g_ghostnet):
        torch.manual_seed(0)
        losses = train(retinanet(build, size, width=0.5), steps, size)
        print(f"{build.__name__}, loss of each step:", ", ".join(f"{x:.3f}" for x in losses))


if __name__ == "__main__":
    main()
