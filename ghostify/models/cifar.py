"""The CIFAR networks of the paper's Section 5: VGG16 and the residual networks of He et al."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

_VGG16 = (64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool",
          512, 512, 512, "pool", 512, 512, 512, "pool")  # fmt: skip


def _config(num_classes: int) -> dict[str, Any]:
    """Configuration that tools ask a network for: input size and normalisation."""
    return {
        "input_size": (3, 32, 32),
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "num_classes": num_classes,
    }


class VGG(nn.Module):
    """VGG16 for 32 x 32 images (Table 4-5): 13 convolutions with norms, a head 512-512-classes.

    Args:
        num_classes: Number of classes.
        width: Part of the channels that each layer has of the 64 to 512.

    Shape:
        - Input: ``(N, 3, 32, 32)``
        - Output: ``(N, num_classes)``

    Raises:
        ValueError: ``width`` leaves no channel.
    """

    def __init__(self, num_classes: int = 10, width: float = 1.0) -> None:
        super().__init__()
        if round(width * min(entry for entry in _VGG16 if isinstance(entry, int))) < 1:
            raise ValueError(f"width={width} leaves no channel: give a part of the width, as 0.25")
        self.default_cfg = _config(num_classes)
        layers: list[nn.Module] = []
        channels = 3
        for entry in _VGG16:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            filters = round(width * entry)
            conv = nn.Conv2d(channels, filters, 3, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
            channels = filters
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Linear(channels, channels), nn.ReLU(inplace=True), nn.Dropout(),
            nn.Linear(channels, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images."""
        return self.classifier(self.features(x).flatten(1))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (option A of He et al.).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; the shortcut fills up with zeros.
        stride: Of the first convolution, and of the shortcut's sampling.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.padding = (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, H, W)`` to ``(N, out_channels, H / stride, W / stride)``."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.padding > 0:
            x = F.pad(x, (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(out + x)


class ResNet(nn.Module):
    """The residual network of depth 6n + 2 for 32 x 32 images (He et al., Section 4.2).

    Args:
        depth: 20, 32, 44, 56, 110, ...
        num_classes: Number of classes.

    Shape:
        - Input: ``(N, 3, 32, 32)``
        - Output: ``(N, num_classes)``

    Raises:
        ValueError: ``depth`` is not 6n + 2.
    """

    def __init__(self, depth: int, num_classes: int = 10) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth={depth} is not 6n + 2: give 20, 32, 44, 56, 110, ...")
        blocks = (depth - 2) // 6
        self.default_cfg = _config(num_classes)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight)

    @staticmethod
    def _stage(in_channels: int, out_channels: int, blocks: int, stride: int) -> nn.Sequential:
        first = BasicBlock(in_channels, out_channels, stride)
        return nn.Sequential(
            first, *(BasicBlock(out_channels, out_channels) for _ in range(blocks - 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images."""
        out = F.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(torch.flatten(F.adaptive_avg_pool2d(out, 1), 1))


def _resnet(depth: int, num_classes: int = 10) -> ResNet:
    return ResNet(depth, num_classes)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "vgg16-cifar": VGG,
    **{f"resnet{depth}-cifar": partial(_resnet, depth) for depth in (20, 32, 44, 56, 110)},
}
"""The networks by name; each factory takes ``num_classes``, VGG's ``width`` too."""
