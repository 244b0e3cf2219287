"""Output shapes of the few ops that make up most of a CNN, without PyTorch's slower meta kernels.

Each rule returns None where it doesn't apply (an odd input, an error to raise): the real op runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ShapeRule = Callable[..., Any]


def _hollow(shape: Sequence[int], like: Tensor) -> Tensor:
    # Like `like.new_empty(shape)`, which on the meta device takes several times longer.
    return torch.empty(shape, dtype=like.dtype, device="meta")


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Tensor | None:  # fmt: skip
    fits = x.dim() == weight.dim() == len(padding) + 2 == len(stride) + 2 == len(dilation) + 2
    if transposed or not fits or x.shape[1] != weight.shape[1] * groups or x.dtype != weight.dtype:
        return None
    if not (x.is_contiguous() and weight.is_contiguous()):
        return None  # the output's strides follow theirs, and a later view() may depend on them
    sizes = [
        (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, gap in zip(
            x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    return _hollow((x.shape[0], weight.shape[0], *sizes), x) if min(sizes) > 0 else None


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    training = rest[1] if len(rest) > 1 and isinstance(rest[1], bool) else False
    if mean is None or training or x.dim() < 2 or mean.shape[0] != x.shape[1]:
        return None
    return _like(x), _hollow((0,), x), _hollow((0,), x)


def _same(x: Tensor, *rest: Any, **keywords: Any) -> Tensor | None:
    if not x.is_floating_point():
        return None  # of whole numbers most of these ops make floating-point ones
    return _like(x)


def _like(x: Tensor) -> Tensor:
    return _hollow(x.shape, x) if x.is_contiguous() else torch.empty_like(x)


def _itself(x: Tensor, *rest: Any, **keywords: Any) -> Tensor:
    return x


def _binary(x: Any, other: Any, **keywords: Any) -> Tensor | None:
    both = isinstance(x, Tensor) and isinstance(other, Tensor)
    if not both or x.shape != other.shape or x.dtype != other.dtype:
        return None
    return _like(x)


def _binary_(x: Tensor, other: Any, **keywords: Any) -> Tensor | None:
    same = isinstance(other, Tensor) and x.shape == other.shape and x.dtype == other.dtype
    return x if same else None


def _addmm(bias: Tensor, x: Tensor, weight: Tensor, **keywords: Any) -> Tensor | None:
    fits = x.dim() == weight.dim() == 2 and x.shape[1] == weight.shape[0]
    if not fits or bias.shape != weight.shape[1:] or not x.dtype == weight.dtype == bias.dtype:
        return None
    return _hollow((x.shape[0], weight.shape[1]), x)


RULES: dict[str, ShapeRule] = {
    "aten::convolution": _convolution,
    "aten::native_batch_norm": _batch_norm,
    "aten::cudnn_batch_norm": _batch_norm,
    "aten::_native_batch_norm_legit_no_training": _batch_norm,
    "aten::addmm": _addmm,
    "aten::relu": _same,
    "aten::relu_": _itself,
    "aten::silu": _same,
    "aten::silu_": _itself,
    "aten::hardswish": _same,
    "aten::hardswish_": _itself,
    "aten::hardtanh": _same,
    "aten::hardtanh_": _itself,
    "aten::gelu": _same,
    "aten::sigmoid": _same,
    "aten::add.Tensor": _binary,
    "aten::add_.Tensor": _binary_,
    "aten::mul.Tensor": _binary,
}
