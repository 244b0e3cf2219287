"""Slicers: what takes channels out of a layer, one for each kind.

A new kind of layer is one more entry of `SLICERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import gcd, lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from ghostify.nn.carving import Cut, channels_of, cut_conv, cut_linear, cut_norm


class NotScalable(Exception):
    """Why a block can't be made thinner; a reason to leave its stage, never an error.

    Attributes:
        within: The modules of the block, outermost first, in whose call the reason lies.
    """

    within: tuple[str, ...] = ()


@dataclass(frozen=True)
class Widths:
    """From an original width to the thin one.

    Attributes:
        channels: Width c of the stage.
        thin: Width r of its thin blocks; equal to ``channels`` for a block that keeps its width.
        group_width: What the width of a convolution's groups is multiplied by.
        divisor: Thin widths are multiples of it.
        group_widths: Widths of the groups of the block's grouped convolutions.
    """

    channels: int
    thin: int
    group_width: float = 1.0
    divisor: int = 1
    group_widths: frozenset[int] = field(default_factory=frozenset)

    @property
    def unchanged(self) -> Widths:
        """The same with every width as it was."""
        return replace(self, thin=self.channels, group_width=1.0, divisor=1)

    def __call__(self, width: int) -> int:
        """The thin width of ``width`` channels."""
        if self.channels in (width, self.thin):
            return self.thin if width == self.channels else width
        step = self.step(width)
        return max(step, width * self.thin // self.channels // step * step)

    def step(self, width: int) -> int:
        """What the thin width of ``width`` channels is a multiple of."""
        steps = [self.grouped(g) for g in self.group_widths if width % g == 0]
        return lcm(*steps, self.divisor if width > self.divisor else 1)

    def grouped(self, group_width: int) -> int:
        """The thin width of a group."""
        return max(1, int(group_width * self.group_width))


@dataclass(frozen=True)
class LayerContext:
    """What a slicer is told of a layer's surroundings.

    Attributes:
        arriving: Which channels of the original's input arrive, ``(channels,)``.
        next_group_width: Width of the groups of the convolution that takes the layer's output,
            where that is a grouped one: the channels kept should be those that its groups keep.
        wanted: Which of the layer's outputs to keep where it is free to; None for the first.
    """

    arriving: Tensor
    next_group_width: int | None = None
    wanted: Tensor | None = None


def _conv(conv: _ConvNd, context: LayerContext, widths: Widths) -> Cut:
    is_depthwise = conv.groups == conv.in_channels == conv.out_channels
    if conv.transposed and conv.groups > 1 and not is_depthwise:
        raise NotScalable(f"a grouped {type(conv).__name__} can't be made thinner")
    arriving = context.arriving
    if conv.groups == 1:
        return Cut(_kept(conv.out_channels, context, widths), arriving)
    if conv.groups == conv.in_channels:
        copies = conv.out_channels // conv.in_channels
        outputs = arriving[:, None] * copies + torch.arange(copies)
        return Cut(outputs.flatten(), arriving, len(arriving))
    return _grouped_conv(conv, arriving, widths)


def _grouped_conv(conv: _ConvNd, arriving: Tensor, widths: Widths) -> Cut:
    old_in, old_out = conv.in_channels // conv.groups, conv.out_channels // conv.groups
    new_in = widths.grouped(old_in)
    groups, rest = divmod(len(arriving), new_in)
    if rest or not groups:
        raise NotScalable(
            f"{len(arriving)} channels are no multiple of a group's width of {new_in}"
        )
    is_square = conv.in_channels == conv.out_channels
    wanted = len(arriving) if is_square else widths(conv.out_channels)
    new_out, rest = divmod(wanted, groups)
    if rest or new_out > old_out:
        raise NotScalable(f"{wanted} outputs can't be shared among {groups} groups")
    first = arriving.view(groups, new_in)[:, 0] // old_in
    outputs = (first[:, None] * old_out + torch.arange(new_out)) % conv.out_channels
    return Cut(outputs.flatten(), arriving, groups)


def _kept(width: int, context: LayerContext, widths: Widths) -> Tensor:
    """Those wanted, the first, or the first of each group of the convolution that comes next."""
    thin = widths(width)
    old, wanted = context.next_group_width, context.wanted
    if old is None and wanted is not None and len(wanted) == thin:
        return wanted
    if old is None or width % old or thin % widths.grouped(old):
        return torch.arange(thin)
    new = widths.grouped(old)
    group, place = torch.arange(thin) // new, torch.arange(thin) % new
    kept = group * old + place
    return kept if kept.max() < width else torch.arange(thin)


def _linear(linear: nn.Linear, context: LayerContext, widths: Widths) -> Cut:
    return Cut(_kept(linear.out_features, context, widths), context.arriving)


def _norm(norm: nn.Module, context: LayerContext, widths: Widths) -> Cut:
    if isinstance(norm, nn.LayerNorm) and len(tuple(norm.normalized_shape)) != 1:
        raise NotScalable("a LayerNorm over more than channels has weights for each position")
    if isinstance(norm, nn.PReLU) and norm.num_parameters == 1:
        return Cut(torch.zeros(1, dtype=torch.long))
    groups = gcd(norm.num_groups, len(context.arriving)) if isinstance(norm, nn.GroupNorm) else 1
    return Cut(context.arriving % channels_of(norm), groups=groups)


def _layer_norm_dim(norm: nn.Module, x: Tensor) -> int:
    """The last; or the first that fits, for subclasses that normalise over dimension 1."""
    channels = channels_of(norm)
    is_last = x.shape[-1] == channels and (type(norm) is nn.LayerNorm or x.shape[1] != channels)
    return x.ndim - 1 if is_last else 1


def _conv_dim(conv: nn.Module, x: Tensor) -> int:
    assert isinstance(conv, _ConvNd)
    return x.ndim - len(conv.kernel_size) - 1


@dataclass(frozen=True)
class Slicer:
    """What takes channels out of a kind of layer.

    Attributes:
        kinds: The classes it is for, subclasses too.
        decide: From the layer, its context and the widths to what it keeps; raises `NotScalable`.
        make: From the layer and what it keeps to the thin layer.
        dim: The dimension of its input that the channels lie in, from its class and input.
    """

    kinds: tuple[type[nn.Module], ...]
    decide: Callable[[Any, LayerContext, Widths], Cut]
    make: Callable[[Any, Cut], nn.Module]
    dim: Callable[[nn.Module, Tensor], int]


SLICERS: tuple[Slicer, ...] = (
    Slicer((_ConvNd,), _conv, cut_conv, _conv_dim),
    Slicer((nn.Linear,), _linear, cut_linear, lambda linear, x: x.ndim - 1),
    Slicer((_NormBase, nn.GroupNorm, nn.PReLU), _norm, cut_norm, lambda norm, x: 1),
    Slicer((nn.LayerNorm,), _norm, cut_norm, _layer_norm_dim),
)
"""Asked in this order."""


def slicer_for(layer: nn.Module) -> Slicer | None:
    """The slicer of a layer; None for one without parameters, which takes any width.

    Raises:
        NotScalable: It has parameters, and nothing is known of its kind.
    """
    for slicer in SLICERS:
        if isinstance(layer, slicer.kinds):
            _require_plain(layer)
            return slicer
    if any(True for _ in layer.parameters()) or any(True for _ in layer.buffers()):
        raise NotScalable(f"a {type(layer).__name__} can't be made thinner")
    return None


def _require_plain(layer: nn.Module) -> None:
    """Refuse layers whose tensors are computed, unknown yet, or quantised."""
    kind = type(layer).__name__
    if isinstance(layer, LazyModuleMixin):
        raise NotScalable(f"a {kind} has no shape before its first forward pass")
    if parametrize.is_parametrized(layer):
        raise NotScalable(f"a parametrised {kind} can't be made thinner")
    weight: Mapping[str, Any] = layer._parameters
    if "weight" not in weight and hasattr(layer, "weight"):
        raise NotScalable(f"the weight of a {kind} is recomputed by a hook")
