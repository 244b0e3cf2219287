"""Norms fused into ghost modules, by code that knows convolutions alone: exactly, or not at all."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_conv_bn_weights, fuse_linear_bn_eval

import ghostify
from ghostify.errors import GhostifyError
from ghostify.nn import GhostConv, GhostConv2d, GhostLinear, GhostModule, fold
from tests.nn.test_ghost_kinds import build, every_kind

NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def norm_of(dimensions: int, channels: int = 12) -> nn.Module:
    """A norm as training leaves it: one scale near zero, one negative, one zero."""
    norm = NORMS[dimensions](channels).eval()
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
        norm.weight[:3] = torch.tensor([1e-7, -1.0, 0.0])
        norm.bias.normal_()
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.2, 3)
    return norm


def ghost_of(kind: Any, given: Any, groups: int, ordered: bool) -> tuple[GhostConv, Tensor]:
    conv, x = build(kind, given, groups)
    ghost = ghostify.convert(
        nn.Sequential(conv), s=2, costlier=True, example_inputs=x, init="random"
    )[0]
    if ordered:
        ghost.set_order(torch.randperm(12))
    return ghost.eval(), x


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ordered", [False, True])
@every_kind
def test_pytorchs_own_fusing_gives_equal_outputs(
    kind: Any, given: Any, groups: int, ordered: bool
) -> None:
    ghost, x = ghost_of(kind, given, groups, ordered)
    norm = norm_of(len(ghost.kernel_size))
    wanted = norm(ghost(x))
    if ghost.primary.transposed and groups > 1:  # PyTorch's recipe knows no groups of these
        fused = fuse_in_layout_of_convolutions(copy.deepcopy(ghost), norm)
    else:
        fused = fuse_conv_bn_eval(ghost, norm, transpose=ghost.primary.transposed)
    torch.testing.assert_close(fused(x), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm(ghost(x)), wanted)  # a copy was fused


def fuse_in_layout_of_convolutions(conv: Any, norm: Any) -> Any:
    """A transposed convolution's weight with the outputs first, fused, and turned back."""
    groups, (ci, co, *k) = conv.groups, conv.weight.shape
    weight = conv.weight.view(groups, ci // groups, co, *k).transpose(1, 2)
    weight, conv.bias = fuse_conv_bn_weights(
        weight.reshape(groups * co, ci // groups, *k), conv.bias,
        norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias,
    )  # fmt: skip
    turned = weight.view(groups, co, ci // groups, *k).transpose(1, 2).reshape(ci, co, *k)
    conv.weight = nn.Parameter(turned)
    return conv.requires_grad_(False)


@torch.no_grad()
def fuse_by_matrix(conv: Any, norm: Any) -> Any:
    """The older recipe: a product with a diagonal matrix, copied into place."""
    matrix = torch.diag(norm.weight.div(torch.sqrt(norm.eps + norm.running_var)))
    weight = conv.weight.clone().view(conv.out_channels, -1)
    shift = norm.bias - norm.weight.mul(norm.running_mean).div(
        torch.sqrt(norm.running_var + norm.eps)
    )
    before = torch.zeros(conv.out_channels) if conv.bias is None else conv.bias
    added = torch.mm(matrix, before.reshape(-1, 1)).reshape(-1) + shift
    conv.register_parameter("bias", nn.Parameter(added))
    conv.weight.copy_(torch.mm(matrix, weight).view(conv.weight.shape))
    return conv


@torch.no_grad()
def fuse_into_data(conv: Any, norm: Any) -> Any:
    """Written into ``data``, the bias first."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    conv.bias = nn.Parameter(shift if conv.bias is None else conv.bias * scale + shift)
    conv.weight.data = conv.weight.data * scale.view(-1, 1, 1, 1)
    return conv


@pytest.mark.parametrize("fuse", [fuse_by_matrix, fuse_into_data])
def test_other_recipes_give_equal_outputs_in_place_and_twice(fuse: Any) -> None:
    ghost, x = ghost_of(nn.Conv2d, {"kernel_size": 3, "padding": 1}, 1, False)
    norm, other = norm_of(2), norm_of(2)
    wanted = other(norm(ghost(x)))
    fuse(fuse(ghost, norm), other)
    torch.testing.assert_close(ghost(x), wanted, rtol=1e-5, atol=1e-5)


def test_a_linear_layers_norm_is_fused() -> None:
    ghost, norm, x = GhostLinear(6, 12).eval(), norm_of(1), torch.randn(5, 6)
    fused = fuse_linear_bn_eval(ghost, norm)
    torch.testing.assert_close(fused(x), norm(ghost(x)), rtol=1e-5, atol=1e-5)


def test_nothing_runs_behind_the_concat_but_an_addition_where_scales_are_alike() -> None:
    ghost, x = GhostConv2d(4, 12, 3).eval(), torch.randn(1, 4, 8, 8)
    wanted = 3 * ghost(x) + 1
    fold(ghost, torch.full((12,), 3.0), torch.ones(12))
    assert ghost.scale is None
    assert ghost.bias is not None
    torch.testing.assert_close(ghost(x), wanted)


class Standardised(nn.Conv2d):
    """Its filters have no scale: it is taken out of them."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight / self.weight.flatten(1).norm(dim=1)[:, None, None, None])


def test_a_scale_that_a_layers_class_would_take_out_again_stays_outside() -> None:
    ghost = GhostConv2d.from_conv(Standardised(4, 12, 3, bias=False)).eval()
    norm, x = norm_of(2), torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(fuse_conv_bn_eval(ghost, norm)(x), norm(ghost(x)))
    made = GhostModule(4, 12).eval()
    wanted = -2 * made(x) + 1
    fold(made, torch.full((12,), -2.0), torch.ones(12))
    torch.testing.assert_close(made(x), wanted)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_type_stays(dtype: torch.dtype) -> None:
    ghost, norm = GhostConv2d(4, 12, 3).eval().to(dtype), norm_of(2).to(dtype)
    x = torch.randn(2, 4, 8, 8, dtype=dtype)
    wanted, fused = norm(ghost(x)), fuse_conv_bn_eval(ghost, norm)
    assert fused(x).dtype == dtype
    assert {tensor.dtype for tensor in fused.state_dict().values()} == {dtype}
    gap = (fused(x) - wanted).abs().max() / wanted.abs().max()
    assert gap < (1e-12 if dtype == torch.float64 else 0.05)


def test_a_fused_module_is_copied_scripted_exported_and_loaded() -> None:
    ghost, norm = GhostConv2d(4, 12, 3).eval(), norm_of(2)
    x, plain = torch.randn(2, 4, 8, 8), copy.deepcopy(ghost)
    fused = fuse_conv_bn_eval(ghost, norm)
    wanted = fused(x)
    assert torch.equal(copy.deepcopy(fused)(x), wanted)
    assert torch.equal(torch.fx.symbolic_trace(fused)(x), wanted)
    torch.testing.assert_close(torch.jit.script(fused)(x), wanted)
    torch.testing.assert_close(torch.export.export(fused, (x,)).module()(x), wanted)
    before = plain(x)
    plain.load_state_dict(fused.state_dict())
    assert torch.equal(plain(x), wanted)
    plain.load_state_dict(ghost.state_dict())
    assert torch.equal(plain(x), before)


@pytest.mark.parametrize(
    "use",
    [
        lambda ghost, x: F.conv2d(x, ghost.weight),
        lambda ghost, x: ghost.weight + 1,
        lambda ghost, x: ghost.weight.norm(),
        lambda ghost, x: ghost.weight.flatten().tolist(),
        lambda ghost, x: ghost.weight.numpy(),
        lambda ghost, x: ghost.weight * ghost.weight,
        lambda ghost, x: nn.init.zeros_(ghost.weight),
        lambda ghost, x: nn.Conv2d(4, 12, 3).weight.data.copy_(ghost.weight),
        lambda ghost, x: setattr(ghost, "weight", nn.Parameter(torch.ones(12, 4, 3, 3))),
        lambda ghost, x: setattr(ghost, "weight", GhostConv2d(4, 12, 3).weight),
        lambda ghost, x: setattr(ghost, "weight", ghost.weight.flip(0)),
        lambda ghost, x: setattr(ghost, "weight", ghost.weight.transpose(2, 3)),
        lambda ghost, x: setattr(ghost, "weight", ghost.weight * torch.rand(1, 4, 1, 1)),
        lambda ghost, x: ghost.weight.copy_(
            torch.mm(torch.rand(12, 12), ghost.weight.view(12, -1)).view(12, 4, 3, 3)
        ),
        lambda ghost, x: ghost.weight.clone().copy_(ghost.weight),
    ],
)
def test_whatever_else_is_done_with_the_weight_says_where_it_is(use: Any) -> None:
    ghost = GhostConv2d(4, 12, 3)
    before = copy.deepcopy(ghost.state_dict())
    with pytest.raises(GhostifyError, match=r"primary\.weight") as caught:
        use(ghost, torch.rand(1, 4, 8, 8))
    assert getattr(caught.value, "obj", ghost) is not None
    assert all(torch.equal(value, before[key]) for key, value in ghost.state_dict().items())


def test_a_stand_in_says_what_the_weight_would_be() -> None:
    weight = GhostConv2d(4, 12, (3, 5), groups=2, dtype=torch.float64).weight
    assert (weight.shape, weight.dtype, weight.device.type) == ((12, 2, 3, 5), torch.float64, "cpu")
    assert weight.numel() == 360
    assert "12, 2, 3, 5" in repr(weight)


def test_yolo_fuses_itself_after_a_conversion() -> None:
    ultralytics = pytest.importorskip("ultralytics")
    network = ultralytics.YOLO("yolo11n.yaml").model.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    converted = ghostify.convert(network, s=2, input_size=(3, 64, 64)).eval()
    x = torch.rand(1, 3, 64, 64)
    wanted = converted(x)[0]
    fused = copy.deepcopy(converted).fuse(verbose=False)(x)[0]
    assert any(isinstance(module, GhostConv2d) for module in converted.modules())
    assert (fused - wanted).abs().max() <= 1e-5 * wanted.abs().max()
