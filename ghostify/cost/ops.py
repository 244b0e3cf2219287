"""The table op -> multiply-accumulates. A new op is one more entry."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

MacsFunction = Callable[[tuple[Any, ...], Any], int]
"""From an op's positional arguments and its output to its MACs; a bias costs none."""

CONVOLUTIONS = frozenset(
    {
        "aten::convolution",
        "aten::convolution_overrideable",
        "aten::_convolution",
        "aten::mkldnn_convolution",
        "aten::cudnn_convolution",
        "torchvision::deform_conv2d",
    }
)
"""Ops whose output elements are activations (RegNet's definition: outputs of all convolutions)."""


def _convolution(args: tuple[Any, ...], out: Any) -> int:
    x, weight = args[:2]
    transposed = len(args) > 6 and args[6] is True
    # Each input element of a transposed convolution, and each output element of an ordinary one,
    # meets every entry of one filter: (channels / groups) * kernel height * kernel width.
    return (x if transposed else out).numel() * prod(weight.shape[1:])


def _deform_conv2d(args: tuple[Any, ...], out: Any) -> int:
    return out.numel() * prod(args[1].shape[1:])


def _mm(args: tuple[Any, ...], out: Any) -> int:
    return prod(args[0].shape) * args[1].shape[-1]


def _addmm(args: tuple[Any, ...], out: Any) -> int:
    return _mm(args[1:], out)


def _mv(args: tuple[Any, ...], out: Any) -> int:
    return prod(args[0].shape)


def _linear(args: tuple[Any, ...], out: Any) -> int:
    return prod(args[0].shape) * (args[1].shape[0] if args[1].ndim == 2 else 1)


def _attention(args: tuple[Any, ...], out: Any) -> int:
    """Q K^T and the product with V; ``(N, heads, length, dim)`` each."""
    q, k, v = args[:3]
    return prod(q.shape) * k.shape[-2] + prod(q.shape[:-1]) * k.shape[-2] * v.shape[-1]


def _trilinear(args: tuple[Any, ...], out: Any) -> int:
    """``y_o = sum_ij x1_i W_oij x2_j``, evaluated as (x1 W) x2."""
    x1, weight = args[:2]
    rows = x1.numel() // x1.shape[-1]
    return rows * (weight.numel() + weight.shape[0] * weight.shape[-1])


def _recurrent(args: tuple[Any, ...], out: Any) -> int:
    """One layer in one direction: each row meets both weights. ``(rows..., features)``."""
    x, of_input, of_state = args[:3]
    return prod(x.shape[:-1]) * (of_input.numel() + of_state.numel())


def _recurrent_layers(args: tuple[Any, ...], out: Any) -> int:
    """All layers and directions at once, their weights in one list."""
    x, weights = args[:2]
    return prod(x.shape[:-1]) * sum(weight.numel() for weight in weights if weight.ndim == 2)


MACS: dict[str, MacsFunction] = {
    "aten::convolution": _convolution,
    "aten::convolution_overrideable": _convolution,
    "aten::_convolution": _convolution,
    "aten::mkldnn_convolution": _convolution,
    "aten::cudnn_convolution": _convolution,
    "torchvision::deform_conv2d": _deform_conv2d,
    "aten::mm": _mm,
    "aten::bmm": _mm,
    "aten::_int_mm": _mm,
    "aten::_scaled_mm": _mm,
    "aten::addmm": _addmm,
    "aten::_addmm_activation": _addmm,
    "aten::baddbmm": _addmm,
    "aten::addbmm": _addmm,
    "aten::mv": _mv,
    "aten::dot": _mv,
    "aten::vdot": _mv,
    "aten::addmv": lambda args, out: _mv(args[1:], out),
    "aten::addr": lambda args, out: out.numel(),
    "aten::linear": _linear,
    "aten::mkldnn_linear": _linear,
    "aten::_trilinear": _trilinear,
    "aten::mkldnn_rnn_layer": _recurrent,
    "aten::_cudnn_rnn": _recurrent_layers,
    "aten::miopen_rnn": _recurrent_layers,
    "aten::_scaled_dot_product_flash_attention": _attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": _attention,
    "aten::_scaled_dot_product_efficient_attention": _attention,
    "aten::_scaled_dot_product_cudnn_attention": _attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": _attention,
}

UNKNOWN = frozenset(
    {
        "aten::_cdist_forward",
        "aten::_euclidean_dist",
        "aten::_native_multi_head_attention",
        "aten::_transformer_encoder_layer_fwd",
        "aten::_fft_c2c",
        "aten::_fft_c2r",
        "aten::_fft_r2c",
        "aten::_flex_attention",
        "aten::_grouped_mm",
        "aten::_scaled_grouped_mm",
        "aten::_efficient_attention_forward",
        "aten::_flash_attention_forward",
        "aten::_linalg_det",
        "aten::_linalg_eigh",
        "aten::_linalg_slogdet",
        "aten::_linalg_solve_ex",
        "aten::_linalg_svd",
        "aten::_weight_int4pack_mm",
        "aten::_weight_int8pack_mm",
        "aten::cholesky_solve",
        "aten::linalg_cholesky_ex",
        "aten::linalg_eig",
        "aten::linalg_householder_product",
        "aten::linalg_inv_ex",
        "aten::linalg_lstsq",
        "aten::linalg_lu",
        "aten::linalg_lu_factor_ex",
        "aten::linalg_lu_solve",
        "aten::linalg_matrix_exp",
        "aten::linalg_qr",
        "aten::linalg_solve_triangular",
        "aten::_lstm_mps",
    }
)
"""Ops of PyTorch's own that multiply and accumulate in ways the table has no rule for."""


FREE = frozenset(
    {
        "torchvision::nms",
        "torchvision::roi_align",
        "torchvision::roi_pool",
        "torchvision::ps_roi_align",
        "torchvision::ps_roi_pool",
    }
)
"""Ops of others that sort, pool or interpolate: no MACs, as PyTorch's own of that kind."""


def is_uncounted(op: str) -> bool:
    """Whether an op may have MACs that the table doesn't know (so that it must be reported).

    Every op that is not PyTorch's own is; PyTorch's element-wise, pooling, normalising and
    shape-changing ops have none, by the convention of RegNet's and the GhostNet papers.
    """
    foreign = op not in MACS and op not in FREE
    return op in UNKNOWN or (foreign and not op.startswith(("aten::", "prim", "profiler")))
