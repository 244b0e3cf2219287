"""Output shapes of the few ops that make up most of a CNN, without PyTorch's slower meta kernels.

Each rule returns None where it doesn't apply (an odd input, an error to raise): the real op runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ShapeRule = Callable[..., Any]


def _convolution(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: list[int], padding: list[int],
    dilation: list[int], transposed: bool, output_padding: list[int], groups: int,
) -> Tensor | None:  # fmt: skip
    fits = x.dim() == weight.dim() == len(padding) + 2 == len(stride) + 2 == len(dilation) + 2
    if transposed or not fits or x.shape[1] != weight.shape[1] * groups or x.dtype != weight.dtype:
        return None
    sizes = [
        (size + 2 * pad - gap * (kernel - 1) - 1) // step + 1
        for size, kernel, step, pad, gap in zip(
            x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True
        )
    ]
    return x.new_empty((x.shape[0], weight.shape[0], *sizes)) if min(sizes) > 0 else None


def _batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor, Tensor] | None:
    training = rest[1] if len(rest) > 1 and isinstance(rest[1], bool) else False
    if mean is None or training or x.dim() < 2 or mean.shape[0] != x.shape[1]:
        return None
    return torch.empty_like(x), x.new_empty(0), x.new_empty(0)


def _same(x: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(x)


def _itself(x: Tensor, *rest: Any) -> Tensor:
    return x


def _binary(x: Any, other: Any, **keywords: Any) -> Tensor | None:
    both = isinstance(x, Tensor) and isinstance(other, Tensor)
    if not both or x.shape != other.shape or x.dtype != other.dtype:
        return None
    return torch.empty_like(x)


def _binary_(x: Tensor, other: Any, **keywords: Any) -> Tensor | None:
    same = isinstance(other, Tensor) and x.shape == other.shape and x.dtype == other.dtype
    return x if same else None


RULES: dict[str, ShapeRule] = {
    "aten::convolution": _convolution,
    "aten::native_batch_norm": _batch_norm,
    "aten::cudnn_batch_norm": _batch_norm,
    "aten::_native_batch_norm_legit_no_training": _batch_norm,
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
