"""Layers of maps apart: ghost modules without their concat, and convolutions that add up what they
make of each part.

A concat copies all its maps. Where convolutions read them it can be left out: a convolution of
several parts is the sum of a convolution of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.deploy.ghosts import FusedGhost, like_convolution
from ghostify.deploy.maps_apart import MapsApart, split_channels, whole_of
from ghostify.nn.concat import Concat


class GhostApart(FusedGhost):
    """A fused ghost module that does not concatenate what it makes."""

    @classmethod
    def of(cls, ghost: FusedGhost) -> GhostApart:
        """The same module without its concat; it shares its parts."""
        made = cls(ghost.primary, list(ghost.cheap), ghost.gives)  # type: ignore[arg-type]
        made.norm = ghost.norm
        return like_convolution(made, ghost)

    def forward(self, x: Any, output_size: list[int] | None = None) -> Any:
        """``(N, in_channels, ...)`` to maps apart."""
        return MapsApart(self.made_of(x, output_size), self.sizes)


class ConcatApart(Concat):
    """A concat that is left out."""

    def forward(self, *parts: Any) -> Any:
        """``(N, C_i, ...)`` each to maps apart."""
        return MapsApart(self.used(parts), self.sizes)


class _OfParts(nn.Module):
    """One convolution for each part of the maps.

    Args:
        convs: Of each part.
        like: The convolution that reads them all: its settings may be asked for.
    """

    def __init__(self, convs: Sequence[_ConvNd], like: _ConvNd) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.sizes = tuple(conv.in_channels for conv in convs)
        like_convolution(self, like)

    def made_of(self, x: Any) -> list[Tensor]:
        """What each convolution makes of its part."""
        is_apart = isinstance(x, MapsApart) and x.sizes == self.sizes
        parts = x.parts if is_apart else split_channels(whole_of(x), self.sizes)
        return [conv(part) for conv, part in zip(self.convs, parts, strict=True)]


class SummedConv(_OfParts):
    """A convolution of maps apart: the sum of a convolution of each part.

    Shape:
        - Input: maps apart, or ``(N, in_channels, ...)``
        - Output: ``(N, out_channels, ...)``
    """

    @classmethod
    def of(cls, conv: _ConvNd, sizes: Sequence[int]) -> SummedConv:
        """The sum that a convolution is.

        Args:
            conv: A convolution of one group that is not transposed.
            sizes: Channels of each part.
        """
        weights = conv.weight.detach().split(list(sizes), dim=1)
        convs: list[_ConvNd] = []
        for weight in weights:  # the first adds the bias
            bias = conv.bias if not convs else None
            made = _convolution(conv, weight.shape[1], conv.out_channels, 1, bias is not None)
            convs.append(_filled(made, weight, bias))
        return cls(convs, conv)

    def forward(self, x: Any) -> Tensor:
        """Maps apart to ``(N, out_channels, ...)``."""
        out, *others = self.made_of(x)
        for other in others:
            out += other
        return out


class DividedConv(nn.Module):
    """A convolution that makes maps apart: a convolution for each part.

    Args:
        convs: Makes of the parts; each may be a `SummedConv`.
        like: The convolution that makes them all: its settings may be asked for.

    Shape:
        - Input: what the convolutions take
        - Output: maps apart
    """

    def __init__(self, convs: Sequence[nn.Module], like: _ConvNd) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.sizes = tuple(int(getattr(conv, "out_channels")) for conv in convs)  # noqa: B009
        like_convolution(self, like)

    @classmethod
    def of(cls, conv: _ConvNd, sizes: Sequence[int], inputs: Sequence[int] = ()) -> DividedConv:
        """A convolution of one group, part by part.

        Args:
            conv: The convolution.
            sizes: Channels of each part that it makes.
            inputs: Of each part that it reads, where those are apart.
        """
        convs = _divided(conv, sizes)
        return cls([SummedConv.of(c, inputs) for c in convs] if inputs else convs, conv)

    def forward(self, x: Any) -> MapsApart:
        """``(N, in_channels, ...)``, or maps apart, to maps apart."""
        return MapsApart([conv(x) for conv in self.convs], self.sizes)


class DepthwiseApart(_OfParts):
    """A depth-wise convolution of maps apart.

    Shape:
        - Input: maps apart, or ``(N, in_channels, ...)``
        - Output: maps apart
    """

    @classmethod
    def of(cls, conv: _ConvNd, sizes: Sequence[int]) -> DepthwiseApart:
        """A depth-wise convolution part by part.

        Args:
            conv: A depth-wise convolution that makes one map of each.
            sizes: Channels of each part.
        """
        return cls(_divided(conv, sizes), conv)

    def forward(self, x: Any) -> MapsApart:
        """Maps apart to maps apart."""
        return MapsApart(self.made_of(x), self.sizes)


MAKERS = (GhostApart, ConcatApart, DividedConv, DepthwiseApart)
"""Layers that make maps apart."""


class Joined(nn.Module):
    """Concatenates maps apart; passes on anything else."""

    def forward(self, x: Any) -> Any:
        """Maps apart to ``(N, C, ...)``."""
        return whole_of(x)


class AsTuple(nn.Module):
    """Gives maps apart as a tuple; passes on anything else."""

    def forward(self, x: Any) -> Any:
        """Maps apart to ``(N, C_i, ...)`` each."""
        return x.parts if isinstance(x, MapsApart) else x


def _divided(conv: _ConvNd, sizes: Sequence[int]) -> list[_ConvNd]:
    """A convolution for each part of the outputs; of a depth-wise one each takes its own maps."""
    weights = conv.weight.detach().split(list(sizes))
    biases = [None] * len(weights) if conv.bias is None else conv.bias.split(list(sizes))
    convs: list[_ConvNd] = []
    for size, weight, bias in zip(sizes, weights, biases, strict=True):
        inputs, groups = (size, size) if conv.groups > 1 else (conv.in_channels, 1)
        made = _convolution(conv, inputs, size, groups, bias is not None)
        convs.append(_filled(made, weight, bias))
    return convs


def _convolution(
    like: _ConvNd, in_channels: int, out_channels: int, groups: int, bias: bool
) -> _ConvNd:
    """A convolution with other channels."""
    kind: type[Any] = type(like)
    made: _ConvNd = kind(
        in_channels, out_channels, like.kernel_size, like.stride, like.padding, like.dilation,
        groups, bias, like.padding_mode, device=like.weight.device, dtype=like.weight.dtype,
    )  # fmt: skip
    return made.requires_grad_(like.weight.requires_grad)


@torch.no_grad()
def _filled(conv: _ConvNd, weight: Tensor, bias: Tensor | None) -> _ConvNd:
    conv.weight.copy_(weight)
    if conv.bias is not None and bias is not None:
        conv.bias.copy_(bias)
    return conv
