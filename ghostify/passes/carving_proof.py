"""Whether a subclass of a layer works with fewer outputs: proven by running it.

A subclass may compute what its class likes (standardise its weight, pad as TensorFlow does). Its
primary layer is of the same class, with some of its filters. That is right where the smaller layer
gives the maps that the whole one gives, and where the layer is linear: only then can a cheap
operation on some of its maps stand in for others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.carving import twin
from ghostify.nn.start import carve, out_attribute
from ghostify.numerics.random_state import keep_random_state

TOLERANCE = 1e-4
"""Of what is left, as a part of the largest output: rounding in float32."""


@torch.no_grad()
@keep_random_state(0)
def is_carvable(layer: _ConvNd | nn.Linear) -> bool:
    """Run a layer with random weights, and one that has every second of its outputs.

    Args:
        layer: In eval mode, on any device (its own values are not read); it is not changed.

    Returns:
        Whether both ran, gave the same maps, and the first is linear but for a constant.
    """
    try:
        whole = _with_random_values(layer)
        # In each group, so that the groups stay alike.
        outputs = int(getattr(whole, out_attribute(whole)))
        groups = int(getattr(whole, "groups", 1))
        kept = torch.arange(outputs).view(groups, -1)[:, ::2].flatten()
        x, other = _inputs(whole)
        out = whole(x)
        dim = out.ndim - 1 if isinstance(whole, nn.Linear) else 1
        gaps = (
            carve(whole, kept)(x) - out.index_select(dim, kept),
            whole(x + other) - out - whole(other) + whole(torch.zeros_like(x)),
        )
    except Exception:  # whatever it raises: it does not work
        return False
    largest = float(out.abs().max())
    return out.shape[dim] == outputs and all(
        float(gap.abs().max()) <= TOLERANCE * largest for gap in gaps
    )


def _with_random_values(layer: nn.Module) -> nn.Module:
    """A copy on the CPU whose tensors are random, also those of the modules inside it."""
    copied = twin(layer, _random)
    for module in copied.modules():
        if module is not copied:
            for key, parameter in module._parameters.items():
                if parameter is not None:
                    module._parameters[key] = nn.Parameter(_random(parameter), requires_grad=False)
            for key, buffer in module._buffers.items():
                module._buffers[key] = None if buffer is None else _random(buffer)
    return copied.eval()


def _random(tensor: Tensor) -> Tensor:
    """Values away from zero, positive: they may be variances."""
    if not tensor.is_floating_point():
        return torch.zeros(tensor.shape, dtype=tensor.dtype)
    return torch.rand(tensor.shape) + 0.5


def _inputs(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Two inputs large enough for the layer's kernel."""
    if isinstance(layer, _ConvNd):
        reach = (gap * (k - 1) for k, gap in zip(layer.kernel_size, layer.dilation, strict=True))
        shape = (2, layer.in_channels, *(2 * size + 8 for size in reach))
    else:
        shape = (2, int(layer.in_features))  # type: ignore[arg-type]
    return torch.randn(shape), torch.randn(shape)
