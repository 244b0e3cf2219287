"""Why a layer is left as it is: one rule each, in the order in which they are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize

from ghostify.cost.theory import speedup_ratio
from ghostify.nn.filters import dimensions, upsampling
from ghostify.nn.ghost import (
    BiasMode,
    GhostLayer,
    InitMode,
    KernelSize,
    intrinsic_channels,
    sizes_of,
)
from ghostify.nn.ghost_kinds import CONV_KINDS, ghost_kind
from ghostify.nn.ghost_linear import GhostLinear
from ghostify.passes.carving_proof import is_carvable

Layer = _ConvNd | nn.Linear
LAYER_KINDS = (*CONV_KINDS, nn.Linear)
"""The kinds of layer that can become ghost modules."""


@dataclass(frozen=True)
class Candidate:
    """A layer that might become a ghost module.

    Attributes:
        name: Its qualified name.
        layer: The layer, on the meta device.
        s: The s that holds for it.
        d: The d that holds for it, along each dimension of its maps.
        bias_mode: Which outputs keep their bias.
        lazy: Whether its shape was unknown before the meta copy ran.
        costlier: Whether it is converted even where that saves nothing.
        divisor: What the number of intrinsic maps is rounded up to a multiple of.
        tied_to: Name of another module that holds one of its parameters.
        read_directly: Whether some forward reads its weight instead of calling it.
    """

    name: str
    layer: Layer
    s: int
    d: KernelSize
    bias_mode: BiasMode = "full"
    lazy: bool = False
    costlier: bool = False
    divisor: int = 1
    tied_to: str | None = None
    read_directly: bool = False

    @property
    def in_channels(self) -> int:
        """Input channels that one filter sees."""
        return layer_shape(self.layer)[0]

    @property
    def out_channels(self) -> int:
        """Number of outputs n."""
        return layer_shape(self.layer)[1]

    @property
    def kernel_size(self) -> tuple[int, ...]:
        """Kernel; 1 x 1 for a linear layer."""
        return layer_shape(self.layer)[2]

    @property
    def intrinsic(self) -> int:
        """Number of intrinsic maps m."""
        return intrinsic_channels(self.out_channels, self.s, self.divisor, self.groups)

    @property
    def groups(self) -> int:
        """Groups of the convolution."""
        return 1 if isinstance(self.layer, nn.Linear) else self.layer.groups

    @property
    def taps(self) -> int:
        """Weights of a cheap kernel."""
        return prod(sizes_of(self.d, dimensions(self.layer)))


def is_layer(module: nn.Module) -> TypeGuard[Layer]:
    """Whether a module is of a kind that can become a ghost module."""
    return isinstance(module, LAYER_KINDS)


def layer_shape(layer: Layer) -> tuple[int, int, tuple[int, ...]]:
    """Input channels that one filter sees, outputs, kernel."""
    if not isinstance(layer, nn.Linear):
        kernel = tuple(int(size) for size in layer.kernel_size)
        return layer.in_channels // layer.groups, layer.out_channels, kernel
    return layer.in_features, layer.out_features, (1, 1)


def make_ghost(
    layer: Layer,
    s: int,
    d: KernelSize,
    bias_mode: BiasMode,
    init: InitMode = "projection",
    generator: torch.Generator | None = None,
    divisor: int = 1,
) -> GhostLayer:
    """The ghost module for a layer of any kind."""
    options: Any = {
        "divisor": divisor, "bias_mode": bias_mode, "init": init, "generator": generator
    }  # fmt: skip
    if not isinstance(layer, nn.Linear):
        kind = ghost_kind(layer)
        assert kind is not None, "layers of other kinds are left"
        return kind.from_conv(layer, s, d, **options)
    return GhostLinear.from_linear(layer, s, **options)


Rule = Callable[[Candidate], str | None]


def _lazy(candidate: Candidate) -> str | None:
    is_lazy = candidate.lazy or isinstance(candidate.layer, LazyModuleMixin)
    return "lazy: its shape is unknown before a first forward pass" if is_lazy else None


def _parametrised(candidate: Candidate) -> str | None:
    if parametrize.is_parametrized(candidate.layer):
        return "its weight is parametrised (remove_parametrizations makes it plain)"
    return None


def _recomputed(candidate: Candidate) -> str | None:
    if not isinstance(candidate.layer._parameters.get("weight"), nn.Parameter):
        return "its weight is recomputed by a hook (weight_norm, pruning, ...)"
    return None


def _composite(candidate: Candidate) -> str | None:
    inside = (module for module in candidate.layer.modules() if module is not candidate.layer)
    if any(isinstance(module, (_ConvNd, nn.Linear, GhostLayer)) for module in inside):
        return f"a {type(candidate.layer).__name__} holds layers of its own"
    return None


def _tied(candidate: Candidate) -> str | None:
    return f"its weight is shared with {candidate.tied_to}" if candidate.tied_to else None


def _read_directly(candidate: Candidate) -> str | None:
    return "its weight is read directly by a forward" if candidate.read_directly else None


def _identity(candidate: Candidate) -> str | None:
    return "s=1 is the layer itself" if candidate.s == 1 else None


def _depthwise(candidate: Candidate) -> str | None:
    is_depthwise = candidate.groups > 1 and candidate.in_channels == 1
    return "depth-wise: nothing to save" if is_depthwise else None


def _few(candidate: Candidate) -> str | None:
    if candidate.out_channels < 2 * candidate.s:
        return f"fewer outputs than 2s ({candidate.out_channels} < {2 * candidate.s})"
    return None


def _groups(candidate: Candidate) -> str | None:
    m = candidate.intrinsic
    if m % candidate.groups:
        return f"its {candidate.groups} groups don't divide the {m} intrinsic channels"
    return None


def _costs_more(candidate: Candidate) -> str | None:
    if candidate.costlier:
        return None
    n, s = candidate.out_channels, candidate.s
    m = candidate.intrinsic
    filter_size = candidate.in_channels * prod(candidate.kernel_size)
    # A transposed convolution has its MACs for each pixel that it reads, its ghosts for each made.
    made = upsampling(candidate.layer)
    ghost = m * filter_size + m * (s - 1) * candidate.taps * made
    if ghost >= n * filter_size:
        ratio = speedup_ratio(candidate.in_channels, candidate.kernel_size, s, candidate.d, made)
        return f"the ghost module would cost as much or more (Eq. 4: {ratio:.2f})"
    return None


def _subclass_fits(candidate: Candidate) -> str | None:
    """A subclass may compute what its class likes: its carved version is tried."""
    layer = candidate.layer
    if type(layer) in LAYER_KINDS or is_carvable(layer):
        return None
    return f"a {type(layer).__name__} does not work with fewer outputs, or is not linear"


RULES: tuple[Rule, ...] = (
    _lazy,
    _parametrised,
    _recomputed,
    _composite,
    _tied,
    _read_directly,
    _identity,
    _depthwise,
    _few,
    _groups,
    _costs_more,
    _subclass_fits,
)


def reason_to_keep(candidate: Candidate) -> str | None:
    """The first reason to leave a layer as it is; None when it can be converted."""
    return next((reason for rule in RULES if (reason := rule(candidate))), None)
