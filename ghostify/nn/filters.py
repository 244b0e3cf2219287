"""The filters of a layer of any kind, one for each output, whatever the layout of its weight."""

from __future__ import annotations

from math import prod
from typing import TypeGuard

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

CONVS: dict[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {
    1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d,
}  # fmt: skip
"""Convolutions by the dimensions of their maps."""

NORMS: dict[int, type[nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d]] = {
    1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d,
}  # fmt: skip
"""Batch norms by the dimensions of the maps."""


def filters_of(layer: _ConvNd | nn.Linear, weight: Tensor | None = None) -> Tensor:
    """One filter for each output, ``(n, c / groups, *kernel)``; of a linear layer ``(n, c)``.

    The weight of a transposed convolution, ``(c, n / groups, *kernel)``, has its inputs first.

    Args:
        layer: A convolution of any dimension, transposed or not, or a linear layer.
        weight: A tensor shaped as its weight, in place of that.
    """
    weight = layer.weight if weight is None else weight
    return _turned(weight, layer.groups) if is_transposed(layer) else weight


def weight_of(layer: nn.Module, filters: Tensor) -> Tensor:
    """The weight of a layer of that kind and of so many groups from its filters."""
    return _turned(filters, layer.groups) if is_transposed(layer) else filters


def _turned(tensor: Tensor, groups: int) -> Tensor:
    """Change the places of the first two dimensions, in each group: its own inverse."""
    turned = tensor.unflatten(0, (groups, -1)).transpose(1, 2)
    return turned.flatten(0, 1)


def plain_conv(
    in_channels: int,
    out_channels: int,
    kernel: int,
    like: Tensor,
    dims: int = 2,
    bias: bool = False,
) -> _ConvNd:
    """A convolution with "same" padding whose weights are not set yet.

    Args:
        in_channels: Its inputs.
        out_channels: Its outputs.
        kernel: Size of its kernel in each dimension.
        like: A tensor whose device and dtype the parameters get.
        dims: Dimensions of the maps.
        bias: Whether it has one.
    """
    # Made on the meta device, so that PyTorch's global random state is left alone.
    conv = CONVS[dims](
        in_channels, out_channels, kernel, padding=kernel // 2, bias=bias, device="meta"
    )
    return conv.to(like.dtype).to_empty(device=like.device)


def is_plain_conv(layer: nn.Module | None) -> TypeGuard[_ConvNd]:
    """Whether a layer is PyTorch's own convolution, of any dimension, and not transposed."""
    return type(layer) in CONVS.values()


def is_transposed(layer: nn.Module) -> TypeGuard[_ConvTransposeNd]:
    """Whether a layer is a transposed convolution."""
    return isinstance(layer, _ConvNd) and layer.transposed


def dimensions(layer: nn.Module) -> int:
    """Dimensions of the maps of a convolution; of other layers 0."""
    return len(layer.kernel_size) if isinstance(layer, _ConvNd) else 0


def upsampling(layer: nn.Module) -> int:
    """Pixels that a convolution makes of each one of its input, where it is transposed; else 1."""
    return prod(layer.stride) if is_transposed(layer) else 1
