"""Initial weights of a ghost module: cut from, or fitted to, the layer that it replaces."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.carving import twin
from ghostify.nn.filters import filters_of, is_transposed, weight_of

LayerT = TypeVar("LayerT", bound=nn.Module)
FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
"""Memory formats with the channels last, by the dimensions of a kernel."""


def out_attribute(layer: nn.Module) -> str:
    """Name of the attribute that holds a layer's number of outputs."""
    return "out_channels" if isinstance(layer, _ConvNd) else "out_features"


def carve(layer: LayerT, kept: Tensor) -> LayerT:
    """A layer of ``layer``'s own class and settings that has only the outputs ``kept``.

    Every parameter and buffer that has one entry for each output is cut, so that a subclass (weight
    standardisation, "same" padding as TensorFlow's, a gain) keeps its behaviour. Hooks stay behind.
    The full weight is never copied.

    Args:
        layer: The layer to cut; it is not changed.
        kept: Indices of the outputs to keep, ``(m,)``.
    """
    name = out_attribute(layer)
    outputs = getattr(layer, name)
    part = twin(layer, lambda tensor: _cut(layer, tensor, outputs, kept))
    setattr(part, name, len(kept))
    return part


def _cut(layer: nn.Module, tensor: Tensor, outputs: int, kept: Tensor) -> Tensor:
    kept = kept.to(tensor.device)
    if is_transposed(layer) and tensor.shape == layer.weight.shape:
        filters = filters_of(layer, tensor.detach()).index_select(0, kept)
        return weight_of(layer, filters).contiguous()
    if tensor.ndim == 0 or tensor.shape[0] != outputs:
        return tensor.detach().clone()
    part = tensor.detach().index_select(0, kept)
    last = FORMATS.get(tensor.ndim)
    if last is not None and tensor.is_contiguous(memory_format=last):
        return part.contiguous(memory_format=last)
    return part


def owners_of_hooks(block: nn.Module) -> Iterator[nn.Module]:
    """The modules outside a block whose methods hook something in it."""
    inside = set(block.modules())
    for module in inside:
        tables = [v for k, v in module.__dict__.items() if k.endswith("_hooks") and v]
        for hook in (hook for table in tables for hook in table.values()):
            while isinstance(hook, partial):
                hook = hook.func  # noqa: PLW2901
            owner = getattr(hook, "__self__", None)
            if isinstance(owner, nn.Module) and owner not in inside:
                yield owner


def move_hooks(source: nn.Module, target: nn.Module, memo: dict[int, Any] | None = None) -> None:
    """Give ``target`` the forward and backward hooks of ``source``.

    Args:
        source: The layer that is replaced.
        target: The module that stands in its place.
        memo: `copy.deepcopy`'s memo when the network was copied (hooks that are bound methods are
            then bound to the copy); None to hand over the hooks themselves, handles included.
    """
    for key, hooks in source.__dict__.items():
        is_run_hook = "forward" in key or "backward" in key
        if is_run_hook and isinstance(hooks, OrderedDict | dict) and hooks:
            target.__dict__[key] = hooks if memo is None else copy.deepcopy(hooks, memo)
    if source._is_full_backward_hook is not None:
        target._is_full_backward_hook = source._is_full_backward_hook


@torch.no_grad()
def draw_kernels(cheap: _ConvNd, generator: torch.Generator | None = None) -> None:
    """Draw a cheap operation's kernels and biases as PyTorch draws those of any convolution."""
    bound = 1 / math.sqrt(cheap.weight[0].numel())
    cheap.weight.uniform_(-bound, bound, generator=generator)
    if cheap.bias is not None:
        cheap.bias.uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def project(layer: _ConvNd | nn.Linear, cheap: _ConvNd, groups: int = 1) -> None:
    """Make each ghost the multiple of its intrinsic map that is nearest to the map it replaces.

    Nearest in the filters: for the filter w of a ghost and v of its intrinsic map the factor is
    <w, v> / <v, v>, at the centre of the cheap kernel. The bias makes up for the multiple of the
    intrinsic map's bias, so that none of the layer's biases is lost.

    Args:
        layer: The layer that is replaced; its first outputs (of each group) are the intrinsic maps.
        cheap: The cheap operation, ``m`` inputs and ``m * (s - 1)`` outputs; written in place.
        groups: Groups of ``layer``.
    """
    maps, copies = cheap.in_channels // groups, cheap.out_channels // cheap.in_channels
    filters = filters_of(layer).detach().float().flatten(1).unflatten(0, (groups, -1))
    intrinsic, replaced = filters[:, :maps], filters[:, maps:]
    norms = torch.einsum("gkp,gkp->gk", intrinsic, intrinsic).clamp_min(1e-12)
    factors = filters.new_zeros(groups, maps, copies)
    offsets = filters.new_zeros(groups, maps, copies)
    for j in range(copies):
        wanted = replaced[:, j::copies]
        count = wanted.shape[1]  # the last maps may have one ghost fewer: only n channels are kept
        products = torch.einsum("gkp,gkp->gk", wanted, intrinsic[:, :count])
        factors[:, :count, j] = products / norms[:, :count]
        if layer.bias is not None:
            bias = layer.bias.detach().float().view(groups, -1)
            shift = factors[:, :count, j] * bias[:, :count]
            offsets[:, :count, j] = bias[:, maps:][:, j::copies] - shift
    kernels = cheap.weight.zero_().flatten(1)
    kernels[:, kernels.shape[1] // 2] = _usable(factors.flatten().to(kernels.dtype))
    if cheap.bias is not None:
        cheap.bias.copy_(_usable(offsets.flatten().to(cheap.bias.dtype)))


def _usable(values: Tensor) -> Tensor:
    """Values, 0 where they are not finite: filters that are not, or too large for the type."""
    return torch.where(values.isfinite(), values, 0.0)
