"""C-GhostNet (Section 3.2, Table 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from ghostify.models.frame import (
    IMAGENET_CLASSES,
    FeaturePyramid,
    GhostNet,
    SqueezeExcite,
    check_width,
    conv_norm_relu,
    scaled,
)
from ghostify.nn.module import GhostModule


@dataclass(frozen=True)
class Bneck:
    """A row of Table 1.

    Attributes:
        expansion: ``#exp``.
        out: ``#out``.
        kernel: Of the depth-wise convolutions of a block that changes size or channels.
        se: Whether squeeze and excitation is used.
        stride: Of the block.
    """

    expansion: int
    out: int
    kernel: int
    se: bool = False
    stride: int = 1


STEM_CHANNELS = 16
STEM_BLOCK = Bneck(16, 16, 3)
STAGES: tuple[tuple[Bneck, ...], ...] = (
    (Bneck(48, 24, 3, stride=2), Bneck(72, 24, 3)),
    (Bneck(72, 40, 5, se=True, stride=2), Bneck(120, 40, 5, se=True)),
    (
        Bneck(240, 80, 3, stride=2),
        Bneck(200, 80, 3),
        Bneck(184, 80, 3),
        Bneck(184, 80, 3),
        Bneck(480, 112, 3, se=True),
        Bneck(672, 112, 3, se=True),
    ),
    (
        Bneck(672, 160, 5, se=True, stride=2),
        Bneck(960, 160, 5),
        Bneck(960, 160, 5, se=True),
        Bneck(960, 160, 5),
        Bneck(960, 160, 5, se=True),
    ),
)
"""Table 1, stage by stage."""

# The released checkpoints number the blocks in runs that end where the stride or the number of
# blocks of MobileNetV3's table changes; the tenth run is the head's first convolution.
_OFFICIAL_RUNS = (1, 1, 1, 1, 1, 1, 5, 1, 4)
_OFFICIAL_PLACES = {
    "stem.conv": "conv_stem",
    "stem.norm": "bn1",
    "head.conv": "blocks.9.0.conv",
    "head.norm": "blocks.9.0.bn1",
    "embed": "conv_head",
    "classifier": "classifier",
}
_OFFICIAL_PARTS = {
    "expand.primary": "ghost1.primary_conv",
    "expand.cheap": "ghost1.cheap_operation",
    "down.0": "conv_dw",
    "down.1": "bn_dw",
    "se.reduce": "se.conv_reduce",
    "se.expand": "se.conv_expand",
    "project.primary": "ghost2.primary_conv",
    "project.cheap": "ghost2.cheap_operation",
    "shortcut": "shortcut",
}


class GhostBottleneck(nn.Module):
    """The C-Ghost bottleneck (Figure 3): two ghost modules, the second without a ReLU.

    Args:
        in_channels: Channels of the input.
        mid_channels: Channels between the modules (the expansion).
        out_channels: Channels of the output.
        kernel: Of the depth-wise convolutions between the modules and in the shortcut.
        stride: 1, or 2: then a depth-wise convolution between the modules does it.
        se: Whether squeeze and excitation precedes the second module.

    Shape:
        - Input: ``(N, in_channels, H, W)``
        - Output: ``(N, out_channels, H / stride, W / stride)``
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        se: bool = False,
    ) -> None:
        super().__init__()
        self.expand = GhostModule(in_channels, mid_channels)
        self.down = _depthwise(mid_channels, kernel, stride) if stride > 1 else nn.Identity()
        self.se = SqueezeExcite(mid_channels) if se else nn.Identity()
        self.project = GhostModule(mid_channels, out_channels, act=False)
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or in_channels != out_channels:
            self.shortcut = nn.Sequential(
                *_depthwise(in_channels, kernel, stride),
                nn.Conv2d(in_channels, out_channels, 1, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        """The block's output; ``x`` is not changed."""
        return self.project(self.se(self.down(self.expand(x)))) + self.shortcut(x)


class CGhostNet(GhostNet):
    """C-GhostNet: MobileNetV3's frame with C-Ghost bottlenecks (Table 1).

    Args:
        num_classes: Number of classes; 0 leaves the classifier out.
        in_chans: Channels of the image.
        width: The width multiplier: C-GhostNet-``width``x.
        dropout: Probability with which an element of the embedding is dropped in training.

    Shape:
        - Input: ``(N, in_chans, H, W)``
        - Output: ``(N, num_classes)``, or ``(N, 1280)`` without classes

    Raises:
        SettingsError: The width is no number above 0.
    """

    def __init__(
        self,
        num_classes: int = IMAGENET_CLASSES,
        in_chans: int = 3,
        width: float = 1.0,
        dropout: float = 0.2,
    ) -> None:
        check_width(width)
        channels = scaled(STEM_CHANNELS, width)
        stem = conv_norm_relu(in_chans, channels, 3, stride=2)
        stem.add_module("block", _block(channels, STEM_BLOCK, width))
        stages, widths = [], [scaled(STEM_BLOCK.out, width)]
        for rows in STAGES:
            stages.append(_stage(widths[-1], rows, width))
            widths.append(scaled(rows[-1].out, width))
        super().__init__(stem, stages, widths[1:], width, num_classes, in_chans, dropout)

    def key_aliases(self) -> dict[str, str]:
        """Key of the released checkpoints -> key of this network, for `--weights`."""
        places = _OFFICIAL_PLACES | dict(zip(_own_blocks(), _official_blocks(), strict=True))
        aliases = {}
        for key in self.state_dict():
            place = next(p for p in places if key.startswith(f"{p}."))
            rest = key.removeprefix(f"{place}.")
            part = next((p for p in _OFFICIAL_PARTS if rest.startswith(f"{p}.")), None)
            if part is not None and "blocks" in places[place]:
                rest = rest.replace(part, _OFFICIAL_PARTS[part], 1)
            aliases[f"{places[place]}.{rest}"] = key
        return aliases


def c_ghostnet(
    width: float = 1.0,
    num_classes: int = IMAGENET_CLASSES,
    in_chans: int = 3,
    dropout: float = 0.2,
    features_only: bool = False,
    stages: Sequence[int] = (1, 2, 3, 4),
) -> CGhostNet | FeaturePyramid:
    """C-GhostNet-``width``x, or with ``features_only`` its stages' feature maps.

    Args:
        width: The width multiplier.
        num_classes: Number of classes; 0 leaves the classifier out.
        in_chans: Channels of the image.
        dropout: Probability of dropout before the classifier.
        features_only: Whether the output is the list of the stages' maps (see `FeaturePyramid`).
        stages: With ``features_only``, the stages whose maps are wanted.

    Raises:
        SettingsError: The width or the stages make no sense.

    Example:
        >>> sum(p.numel() for p in c_ghostnet(width=0.5).parameters())
        2587292
    """
    network = CGhostNet(num_classes, in_chans, width, dropout)
    return FeaturePyramid(network, stages) if features_only else network


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Sequential:
    conv = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(channels))


def _block(in_channels: int, row: Bneck, width: float) -> GhostBottleneck:
    expansion, out = scaled(row.expansion, width), scaled(row.out, width)
    return GhostBottleneck(in_channels, expansion, out, row.kernel, row.stride, row.se)


def _stage(in_channels: int, rows: Sequence[Bneck], width: float) -> nn.Sequential:
    inputs = [in_channels, *(scaled(row.out, width) for row in rows)]
    return nn.Sequential(*(_block(c, row, width) for c, row in zip(inputs, rows, strict=False)))


def _own_blocks() -> list[str]:
    return [
        "stem.block",
        *(f"stage{n}.{i}" for n, rows in enumerate(STAGES, 1) for i in range(len(rows))),
    ]


def _official_blocks() -> list[str]:
    return [f"blocks.{run}.{i}" for run, length in enumerate(_OFFICIAL_RUNS) for i in range(length)]


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "c-ghostnet": c_ghostnet,
    "c-ghostnet-0.5x": partial(c_ghostnet, 0.5),
    "c-ghostnet-1.3x": partial(c_ghostnet, 1.3),
}
"""The networks by name; each factory takes `c_ghostnet`'s arguments."""
