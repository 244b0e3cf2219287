"""G-GhostNet (Section 4.4, Table 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.errors import SettingsError
from ghostify.models.frame import (
    IMAGENET_CLASSES,
    FeaturePyramid,
    GhostNet,
    SqueezeExcite,
    check_width,
    conv_norm_relu,
    scaled,
)
from ghostify.nn.g_ghost import GGhostStage, Mix, cheap_operation

EXPANSION = 3
RATIO = 0.4
STEM_CHANNELS = 16
STAGES = ((24, 1), (40, 1), (80, 5), (160, 5))
"""Channels of each stage, and how many thin blocks follow its first (Table 2)."""


class ResidualBottleneck(nn.Module):
    """1x1, 3x3, squeeze and excitation, 1x1, and a shortcut; a ReLU after each but the gate.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; between the 1x1 convolutions there are three times
            as many.
        stride: Of the 3x3 convolution and of the shortcut.

    Shape:
        - Input: ``(N, in_channels, H, W)``
        - Output: ``(N, out_channels, H / stride, W / stride)``
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        middle = EXPANSION * out_channels
        self.expand = conv_norm_relu(in_channels, middle, 1)
        self.conv = conv_norm_relu(middle, middle, 3, stride)
        self.se = SqueezeExcite(middle)
        self.project = _conv_norm(middle, out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = _conv_norm(in_channels, out_channels, stride)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output; ``x`` is not changed."""
        out = self.project(self.se(self.conv(self.expand(x))))
        return self.act(out + self.shortcut(x))


class GGhostNet(GhostNet):
    """G-GhostNet: C-GhostNet's frame with G-Ghost stages of residual bottlenecks (Table 2).

    Eq. 6-12 to the letter: the thin blocks and the 1x1 cheap operation take all of the first
    block's output, the mix pools the thin blocks' outputs, a stage ends in the concat. The paper
    does not say what the expansion of 3 multiplies (here a block's output channels), where the
    complicated channels are rounded (to multiples of 4, as all channels of the frame), and whether
    a ReLU follows the cheap operation and the mix (here it does); it gives no parameters or FLOPs
    to tell by.

    Args:
        num_classes: Number of classes; 0 leaves the classifier out.
        in_chans: Channels of the image.
        width: The width multiplier: G-GhostNet-``width``x.
        dropout: Probability with which an element of the embedding is dropped in training.
        ratio: The paper's lambda.

    Shape:
        - Input: ``(N, in_chans, H, W)``
        - Output: ``(N, num_classes)``, or ``(N, 1280)`` without classes

    Raises:
        SettingsError: The width is no number above 0, or the ratio none between 0 and 1.
    """

    def __init__(
        self,
        num_classes: int = IMAGENET_CLASSES,
        in_chans: int = 3,
        width: float = 1.0,
        dropout: float = 0.2,
        ratio: float = RATIO,
    ) -> None:
        check_width(width)
        if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 0 < ratio < 1:
            raise SettingsError(f"ratio={ratio!r} makes no sense: give 0 < ratio < 1, as 0.4.")
        channels = [scaled(c, width) for c in (STEM_CHANNELS, *(c for c, _ in STAGES))]
        stages = [
            _stage(before, after, thin, ratio)
            for before, after, (_, thin) in zip(channels, channels[1:], STAGES, strict=False)
        ]
        stem = conv_norm_relu(in_chans, channels[0], 3, stride=2)
        super().__init__(stem, stages, channels[1:], width, num_classes, in_chans, dropout)


def g_ghostnet(
    width: float = 1.0,
    num_classes: int = IMAGENET_CLASSES,
    in_chans: int = 3,
    dropout: float = 0.2,
    features_only: bool = False,
    stages: Sequence[int] = (1, 2, 3, 4),
    **options: Any,
) -> GGhostNet | FeaturePyramid:
    """G-GhostNet-``width``x, or with ``features_only`` its stages' feature maps.

    Args:
        width: The width multiplier.
        num_classes: Number of classes; 0 leaves the classifier out.
        in_chans: Channels of the image.
        dropout: Probability of dropout before the classifier.
        features_only: Whether the output is the list of the stages' maps (see `FeaturePyramid`).
        stages: With ``features_only``, the stages whose maps are wanted.
        **options: ``ratio``, the paper's lambda.

    Raises:
        SettingsError: The width, the ratio or the stages make no sense.

    Example:
        >>> g_ghostnet(width=0.5).channels
        (12, 20, 40, 80)
    """
    network = GGhostNet(num_classes, in_chans, width, dropout, **options)
    return FeaturePyramid(network, stages) if features_only else network


def _stage(in_channels: int, channels: int, thin: int, ratio: float) -> GGhostStage:
    complicated = min(scaled(channels, 1 - ratio), channels - 1)
    ghosts = channels - complicated
    inputs = [channels] + [complicated] * (thin - 1)
    return GGhostStage(
        ResidualBottleneck(in_channels, channels, stride=2),
        [ResidualBottleneck(entering, complicated) for entering in inputs],
        cheap_operation(channels, ghosts, 1, torch.empty(0)),
        Mix(thin * complicated, ghosts),
        None,
        channels=channels,
        complicated=complicated,
        entry="project",
        mix_from="thin",
        ghost_act=True,
    )


def _conv_norm(in_channels: int, out_channels: int, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels))


NETWORKS: dict[str, Callable[..., nn.Module]] = {"g-ghostnet": g_ghostnet}
"""The network by name; the factory takes `g_ghostnet`'s arguments."""
