"""Operations that keep channels apart: what each gives in a channel comes of that channel alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

LAYERS = (
    _BatchNorm, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.Identity,
    nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d,
    nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d,
)  # fmt: skip
FUNCTIONS = frozenset(
    {F.relu, F.relu6, F.leaky_relu, F.silu, F.gelu, F.hardswish, torch.relu, "relu", "relu_"}
)


def is_channelwise(node: fx.Node, layer: nn.Module | None) -> bool:
    """Whether a node of one input keeps its channels apart.

    Args:
        node: Any node of a graph.
        layer: The module that it calls, where it calls one.
    """
    if node.op != "call_module":
        return node.target in FUNCTIONS
    if isinstance(layer, _ConvNd):
        return layer.groups == layer.in_channels == layer.out_channels
    return isinstance(layer, LAYERS)
