"""The networks of the paper: C-GhostNet, G-GhostNet and those of its CIFAR tables.

Example:
    >>> import torch
    >>> from ghostify.models import c_ghostnet
    >>> pyramid = c_ghostnet(features_only=True)
    >>> [tuple(maps.shape[1:]) for maps in pyramid(torch.zeros(1, 3, 64, 64))]
    [(24, 16, 16), (40, 8, 8), (112, 4, 4), (160, 2, 2)]
"""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from ghostify.models import c_ghostnet as _c_ghostnet
from ghostify.models import cifar as _cifar
from ghostify.models import g_ghostnet as _g_ghostnet
from ghostify.models.c_ghostnet import CGhostNet, GhostBottleneck, c_ghostnet
from ghostify.models.cifar import VGG, BasicBlock, ResNet
from ghostify.models.frame import FeaturePyramid, GhostNet
from ghostify.models.g_ghostnet import GGhostNet, ResidualBottleneck, g_ghostnet

NETWORKS: dict[str, Callable[..., nn.Module]] = {
    **_cifar.NETWORKS,
    **_c_ghostnet.NETWORKS,
    **_g_ghostnet.NETWORKS,
}
"""The networks by name, as `ghostify models` lists them and `ghostify.build` takes them."""

__all__ = [
    "NETWORKS",
    "VGG",
    "BasicBlock",
    "CGhostNet",
    "FeaturePyramid",
    "GGhostNet",
    "GhostBottleneck",
    "GhostNet",
    "ResNet",
    "ResidualBottleneck",
    "c_ghostnet",
    "g_ghostnet",
]
