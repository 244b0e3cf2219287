"""Layers with fewer channels, cut from layers of the same class that keep their behaviour."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Cut:
    """The channels of a layer that stay.

    Attributes:
        outputs: Indices of the outputs to keep, ``(out,)``; of a norm, the channels.
        inputs: Which of the original's inputs each input of the cut layer is, ``(in,)``; None for a
            norm.
        groups: Groups of the cut convolution, or of the cut group norm.
    """

    outputs: Tensor
    inputs: Tensor | None = None
    groups: int = 1

    def same_as(self, other: Cut) -> bool:
        """Whether both keep the same channels."""
        inputs = (self.inputs, other.inputs)
        return (
            self.groups == other.groups
            and torch.equal(self.outputs, other.outputs)
            and (inputs == (None, None) or torch.equal(*map(torch.as_tensor, inputs)))
        )


def twin(layer: ModuleT, change: Callable[[Tensor], Tensor]) -> ModuleT:
    """A layer of ``layer``'s own class and settings, its tensors what ``change`` makes of them.

    Hooks stay behind; ``layer`` is not changed, and no tensor of it is copied whole.
    """
    other = layer.__class__.__new__(layer.__class__)
    nn.Module.__init__(other)
    fresh = set(other.__dict__)
    for key, value in layer.__dict__.items():
        if key not in fresh:
            other.__dict__[key] = value if isinstance(value, nn.Module) else copy.deepcopy(value)
    other.__dict__["_non_persistent_buffers_set"] = set(layer._non_persistent_buffers_set)
    other.training = layer.training
    for key, child in layer._modules.items():
        other._modules[key] = copy.deepcopy(child)
    for key, parameter in layer._parameters.items():
        other._parameters[key] = None
        if parameter is not None:
            part = change(parameter.detach())
            other._parameters[key] = nn.Parameter(part, requires_grad=parameter.requires_grad)
    for key, buffer in layer._buffers.items():
        other._buffers[key] = None if buffer is None else change(buffer)
    return other


def cut_conv(conv: _ConvNd, cut: Cut) -> _ConvNd:
    """A convolution with the outputs and inputs that stay.

    Where the cut one has other groups, an input that the original filter did not see takes the
    weight of the one at its place in the filter's own group.
    """
    assert cut.inputs is not None
    if conv.transposed and conv.groups == 1:
        return _cut_transposed(conv, cut)
    seen = conv.in_channels // conv.groups
    per_group = len(cut.inputs) // cut.groups
    group = torch.arange(len(cut.outputs)) // (len(cut.outputs) // cut.groups)
    places = (cut.inputs % seen).view(cut.groups, per_group)[group]

    def change(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or tensor.shape[0] != conv.out_channels:
            return tensor.clone()
        kept = tensor.index_select(0, cut.outputs.to(tensor.device))
        if tensor.shape != conv.weight.shape:
            return kept
        index = places.to(tensor.device).view(*places.shape, *[1] * (tensor.ndim - 2))
        part = kept.gather(1, index.expand(-1, -1, *tensor.shape[2:]))
        if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
            return part.contiguous(memory_format=torch.channels_last)
        return part

    other = twin(conv, change)
    other.out_channels, other.in_channels = len(cut.outputs), len(cut.inputs)
    other.groups = cut.groups
    return other


def _cut_transposed(conv: _ConvNd, cut: Cut) -> _ConvNd:
    """A transposed convolution, whose weight has the inputs first, with what stays of both."""
    assert cut.inputs is not None
    inputs = cut.inputs

    def change(tensor: Tensor) -> Tensor:
        if tensor.shape != conv.weight.shape:
            return tensor.index_select(0, cut.outputs.to(tensor.device))
        kept = tensor.index_select(0, inputs.to(tensor.device))
        return kept.index_select(1, cut.outputs.to(tensor.device))

    other = twin(conv, change)
    other.out_channels, other.in_channels = len(cut.outputs), len(inputs)
    return other


def cut_linear(linear: nn.Linear, cut: Cut) -> nn.Linear:
    """A linear layer with the outputs and inputs that stay."""
    assert cut.inputs is not None
    inputs = cut.inputs

    def change(tensor: Tensor) -> Tensor:
        if tensor.ndim == 0 or tensor.shape[0] != linear.out_features:
            return tensor.clone()
        kept = tensor.index_select(0, cut.outputs.to(tensor.device))
        return kept.index_select(1, inputs.to(tensor.device)) if tensor.ndim == 2 else kept

    other = twin(linear, change)
    other.out_features, other.in_features = len(cut.outputs), len(inputs)
    return other


def cut_norm(norm: nn.Module, cut: Cut) -> nn.Module:
    """A norm (batch, instance, layer, group), or another layer with a value for each channel."""
    channels = channels_of(norm)
    other = twin(norm, lambda tensor: cut_vector(tensor, channels, cut.outputs))
    if isinstance(other, _NormBase):
        other.num_features = len(cut.outputs)
    elif isinstance(other, nn.LayerNorm):
        other.normalized_shape = (len(cut.outputs),)
    elif isinstance(other, nn.GroupNorm):
        other.num_channels, other.num_groups = len(cut.outputs), cut.groups
    elif isinstance(other, nn.PReLU):
        other.num_parameters = len(cut.outputs)
    return other


def cut_vector(tensor: Tensor, channels: int, kept: Tensor) -> Tensor:
    """A tensor with one entry for each channel along one dimension, cut there."""
    for dim, size in enumerate(tensor.shape):
        if size == channels and tensor.numel() == channels:
            return tensor.detach().index_select(dim, kept.to(tensor.device))
    return tensor.detach().clone()


def channels_of(norm: nn.Module) -> int:
    """How many channels a norm (or another layer with a value for each) is made for."""
    if isinstance(norm, _NormBase):
        return norm.num_features
    if isinstance(norm, nn.LayerNorm):
        return norm.normalized_shape[-1]
    if isinstance(norm, nn.GroupNorm):
        return norm.num_channels
    assert isinstance(norm, nn.PReLU)
    return norm.num_parameters
