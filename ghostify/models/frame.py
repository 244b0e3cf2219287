"""Frame of C-GhostNet and G-GhostNet (Tables 1 and 2): stem, four stages, head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import SettingsError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
IMAGENET_CLASSES = 1000
HEAD_CHANNELS = 960
EMBEDDING = 1280


def scaled(channels: float, width: float = 1.0) -> int:
    """Channels after the width multiplier: the nearest multiple of 4, never below 90 %.

    Example:
        >>> scaled(24, 0.5), scaled(112, 1.3), scaled(18)
        (12, 144, 20)
    """
    asked = channels * width
    rounded = max(4, int(asked + 2) // 4 * 4)
    return rounded if rounded >= 0.9 * asked else rounded + 4


def check_width(width: float) -> None:
    """Raise `SettingsError` unless the width multiplier is a number above 0."""
    is_number = isinstance(width, int | float) and not isinstance(width, bool)
    if not is_number or not 0 < width < float("inf"):
        raise SettingsError(f"width={width!r} makes no sense: give a number above 0, as 0.5 or 1.")


def conv_norm_relu(
    in_channels: int, out_channels: int, kernel_size: int, stride: int = 1
) -> nn.Sequential:
    """A convolution with "same" padding, a batch norm, a ReLU: ``conv``, ``norm``, ``act``."""
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)
    norm, act = nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)
    return nn.Sequential(OrderedDict(conv=conv, norm=norm, act=act))


class SqueezeExcite(nn.Module):
    """Squeeze and excitation with a hard-sigmoid gate (Hu et al., as in MobileNetV3).

    Args:
        channels: Channels of the input.
        ratio: Of the reduced width, which is rounded to a multiple of 4.
    """

    def __init__(self, channels: int, ratio: float = 0.25) -> None:
        super().__init__()
        reduced = scaled(channels, ratio)
        self.reduce = nn.Conv2d(channels, reduced, 1)
        self.act = nn.ReLU(inplace=True)
        self.expand = nn.Conv2d(reduced, channels, 1)
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)``, each channel scaled by a factor between 0 and 1."""
        pooled = x.mean((2, 3), keepdim=True)
        return x * self.gate(self.expand(self.act(self.reduce(pooled))))


class GhostNet(nn.Module):
    """A stem, ``stage1`` to ``stage4``, a head, a classifier.

    Args:
        stem: From the image to maps at half its size.
        stages: The stages; each halves the size of the maps.
        channels: Channels that each stage puts out.
        width: The width multiplier, for the head.
        num_classes: Number of classes; 0 leaves the classifier out.
        in_chans: Channels of the image.
        dropout: Probability with which an element of the embedding is dropped in training.

    Shape:
        - Input: ``(N, in_chans, H, W)``
        - Output: ``(N, num_classes)``, or ``(N, 1280)`` without classes
    """

    STAGES = ("stage1", "stage2", "stage3", "stage4")
    STRIDES = (4, 8, 16, 32)

    def __init__(
        self,
        stem: nn.Module,
        stages: Sequence[nn.Module],
        channels: Sequence[int],
        width: float,
        num_classes: int,
        in_chans: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.channels = tuple(channels)
        self.num_classes = num_classes
        self.default_cfg: dict[str, Any] = {
            "input_size": (in_chans, 224, 224),
            "mean": IMAGENET_MEAN,
            "std": IMAGENET_STD,
            "num_classes": num_classes,
        }
        self.stem = stem
        for name, stage in zip(self.STAGES, stages, strict=True):
            self.add_module(name, stage)
        wide = scaled(HEAD_CHANNELS, width)
        self.head = conv_norm_relu(self.channels[-1], wide, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.embed = nn.Conv2d(wide, EMBEDDING, 1)
        self.act = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(EMBEDDING, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> list[Tensor]:
        """The maps of the four stages, at 1/4, 1/8, 1/16 and 1/32 of the image's size."""
        x = self.stem(x)
        maps = []
        for name in self.STAGES:
            x = getattr(self, name)(x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """Class scores of images."""
        x = self.pool(self.head(self.forward_features(x)[-1]))
        return self.classifier(self.dropout(torch.flatten(self.act(self.embed(x)), 1)))


class FeaturePyramid(nn.Module):
    """A network up to its last stage; its output is the list of what the stages put out.

    The modules keep the network's names, so that a part of its weights fits, and so that
    torchvision's `BackboneWithFPN` finds ``stage1`` to ``stage4``.

    Args:
        network: The network; its modules are shared.
        stages: Numbers of the stages to put out, 1 to 4; the others are left out where nothing
            needs them.

    Attributes:
        channels: Channels of each map of the list.
        strides: How many times smaller than the image each is.

    Raises:
        SettingsError: There is no such stage, or none is asked for.
    """

    def __init__(self, network: GhostNet, stages: Sequence[int] = (1, 2, 3, 4)) -> None:
        super().__init__()
        wanted = tuple(sorted(set(stages)))
        if not wanted or not set(wanted) <= {1, 2, 3, 4}:
            raise SettingsError(f"stages={stages!r} makes no sense: give some of 1, 2, 3, 4.")
        self.default_cfg = network.default_cfg
        self.stages = wanted
        self.channels = tuple(network.channels[number - 1] for number in wanted)
        self.strides = tuple(network.STRIDES[number - 1] for number in wanted)
        self.stem = network.stem
        for name in network.STAGES[: wanted[-1]]:
            self.add_module(name, network.get_submodule(name))

    def forward(self, x: Tensor) -> list[Tensor]:
        """``(N, C_i, H / stride_i, W / stride_i)`` for each stage i, the finest first."""
        x = self.stem(x)
        maps = []
        for number in range(1, self.stages[-1] + 1):
            x = self.get_submodule(f"stage{number}")(x)
            if number in self.stages:
                maps.append(x)
        return maps
