"""GhostConv2d: Eq. 2-3 computed slowly, and all that a Conv2d can do."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from ghostify.errors import GhostifyError, SettingsError
from ghostify.nn import GhostConv2d, intrinsic_channels


def slow_ghost(ghost: GhostConv2d, x: Tensor) -> Tensor:
    """Eq. 2-3 map by map: primary filters, then s - 1 cheap d x d filters for each intrinsic map.

    Group by group, since a grouped convolution is so many convolutions side by side.
    """
    primary, cheap = ghost.primary, ghost.cheap
    intrinsic = primary(x)
    assert cheap is not None
    per_group = primary.out_channels // ghost.groups
    groups = []
    for g in range(ghost.groups):
        maps = [intrinsic[:, g * per_group + i] for i in range(per_group)]
        ghosts = []
        for i in range(per_group):
            for j in range(ghost.s - 1):
                index = (g * per_group + i) * (ghost.s - 1) + j
                ghosts.append(slow_cheap(cheap, index, maps[i]))
        group = torch.stack(maps + ghosts, dim=1)
        groups.append(group[:, : ghost.out_channels // ghost.groups])
    return torch.cat(groups, dim=1)


def slow_cheap(cheap: nn.Conv2d, index: int, image: Tensor) -> Tensor:
    """One cheap operation of Eq. 3, ``(N, H, W)`` to ``(N, H, W)``, tap by tap."""
    kernel = cheap.weight[index, 0]
    d = kernel.shape[0]
    padded = F.pad(image, (d // 2,) * 4)
    height, width = image.shape[-2:]
    out = torch.zeros_like(image)
    for row in range(d):
        for column in range(d):
            tap = padded[:, row : row + height, column : column + width]
            out = out + kernel[row, column] * tap
    return out if cheap.bias is None else out + cheap.bias[index]


@st.composite
def cases(draw: st.DrawFn) -> tuple[nn.Conv2d, int, int]:
    """A convolution with any hyper-parameters, s and d; its groups divide m."""
    s = draw(st.integers(2, 5))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    # m = ceil(n / s) must be a multiple of groups, and n too.
    n = draw(st.integers(2 * s, 24).filter(lambda n: n % groups == 0 and -(-n // s) % groups == 0))
    c = groups * draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    same = draw(st.booleans())
    stride = 1 if same else draw(st.integers(1, 3))
    padding: Any = "same" if same else draw(st.integers(0, 2))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    conv = nn.Conv2d(
        c, n, kernel, stride, padding, draw(st.integers(1, 2)), groups,
        bias=draw(st.booleans()), padding_mode=mode,
    )  # fmt: skip
    return conv, s, draw(st.sampled_from([1, 3, 5]))


@settings(deadline=None, max_examples=150)
@given(cases(), st.integers(0, 2**16), st.sampled_from(["full", "primary"]))
def test_ghost_module_computes_equations_2_and_3(
    case: tuple[nn.Conv2d, int, int], seed: int, bias_mode: Any
) -> None:
    conv, s, d = case
    generator = torch.Generator().manual_seed(seed)
    ghost = GhostConv2d.from_conv(
        conv, s, d, bias_mode=bias_mode, init="random", generator=generator
    )
    x = torch.randn(2, conv.in_channels, 9, 8, generator=generator)
    out = ghost(x)
    assert out.shape == conv(x).shape
    torch.testing.assert_close(out, slow_ghost(ghost, x))


@settings(deadline=None, max_examples=60)
@given(cases())
def test_intrinsic_maps_of_a_converted_convolution_are_its_own_first_maps(
    case: tuple[nn.Conv2d, int, int],
) -> None:
    conv, s, d = case
    ghost = GhostConv2d.from_conv(conv, s, d)
    x = torch.randn(1, conv.in_channels, 9, 8)
    per_group = conv.out_channels // conv.groups
    kept = intrinsic_channels(conv.out_channels, s) // conv.groups
    ours, theirs = (f(x).unflatten(1, (conv.groups, per_group)) for f in (ghost, conv))
    torch.testing.assert_close(ours[:, :, :kept], theirs[:, :, :kept])


@pytest.mark.parametrize("bias", [True, False])
def test_projection_is_the_least_squares_multiple_of_the_intrinsic_filter(bias: bool) -> None:
    conv = nn.Conv2d(4, 10, 3, bias=bias)
    ghost = GhostConv2d.from_conv(conv, s=3, d=3)
    m = intrinsic_channels(10, 3)
    for index in range(10 - m):
        source = index // 2  # s - 1 = 2 ghosts of each map, in order
        v = conv.weight[source].flatten().double()
        w = conv.weight[m + index].flatten().double()
        best = torch.linalg.lstsq(v[:, None], w[:, None]).solution.item()
        assert ghost.cheap.weight[index, 0, 1, 1].item() == pytest.approx(best, abs=1e-6)
        assert ghost.cheap.weight[index, 0].count_nonzero() == 1
        if bias:
            whole = ghost.cheap.bias[index] + best * ghost.primary.bias[source]
            assert whole.item() == pytest.approx(conv.bias[m + index].item(), abs=1e-5)


def test_a_convolution_whose_filters_are_multiples_is_converted_without_loss() -> None:
    conv = nn.Conv2d(3, 8, 3, padding=1)
    with torch.no_grad():
        conv.weight[4:] = conv.weight[:4] * torch.tensor([2.0, -1.0, 0.5, 3.0]).view(4, 1, 1, 1)
    x = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(GhostConv2d.from_conv(conv, 2, 5)(x), conv(x))


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("groups", [1, 2])
def test_s_1_is_the_convolution_bit_for_bit(padding_mode: str, groups: int) -> None:
    conv = nn.Conv2d(4, 6, 3, 2, 1, groups=groups, padding_mode=padding_mode)
    ghost = GhostConv2d.from_conv(conv, s=1, d=3)
    x = torch.randn(2, 4, 9, 9)
    assert torch.equal(ghost(x), conv(x))
    assert sum(p.numel() for p in ghost.parameters()) == sum(p.numel() for p in conv.parameters())


def test_parameters_are_those_of_the_paper() -> None:
    # n*c*k*k/s + (s-1)*n/s*d*d: the denominator of Eq. 5.
    ghost = GhostConv2d(16, 60, 3, s=3, d=5, bias=False)
    assert sum(p.numel() for p in ghost.parameters()) == 20 * 16 * 9 + 2 * 20 * 25


@pytest.mark.parametrize(("bias_mode", "biases"), [("full", 12), ("primary", 6)])
def test_bias_mode_says_which_outputs_have_a_bias(bias_mode: Any, biases: int) -> None:
    ghost = GhostConv2d(3, 12, 3, s=2, bias_mode=bias_mode)
    assert sum(p.numel() for n, p in ghost.named_parameters() if "bias" in n) == biases


def test_names_are_the_papers_and_pytorchs() -> None:
    ghost = GhostConv2d(8, 16, 3, 2, 1, 1, 2, s=2, d=3)
    assert list(ghost.state_dict()) == [
        "primary.weight", "primary.bias", "cheap.weight", "cheap.bias",
    ]  # fmt: skip
    like = nn.Conv2d(8, 16, 3, 2, 1, 1, 2)
    for name in ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation",
                 "groups", "padding_mode"):  # fmt: skip
        assert getattr(ghost, name) == getattr(like, name)


@pytest.mark.parametrize(
    "wrong", [{"s": 0}, {"s": 1.5}, {"s": True}, {"d": 2}, {"d": 0}, {"d": -3}, {"s": "2"}]
)
def test_s_or_d_that_makes_no_sense_is_refused_with_its_value(wrong: dict[str, Any]) -> None:
    (value,) = wrong.values()
    with pytest.raises(SettingsError, match=str(value)):
        GhostConv2d(8, 16, 3, **wrong)


def test_groups_that_do_not_divide_the_intrinsic_channels_are_refused() -> None:
    with pytest.raises(SettingsError, match="groups=4 does not divide the 6 intrinsic"):
        GhostConv2d(8, 12, 3, groups=4, s=2)


def test_an_unbatched_image_is_taken_as_a_convolution_takes_it() -> None:
    for groups in (1, 2):
        conv = nn.Conv2d(4, 8, 3, groups=groups)
        ghost = GhostConv2d.from_conv(conv, 2, 3)
        x = torch.randn(4, 7, 7)
        assert ghost(x).shape == conv(x).shape
        torch.testing.assert_close(ghost(x), ghost(x[None])[0])


def test_an_empty_batch_is_taken_as_a_convolution_takes_it() -> None:
    conv = nn.Conv2d(4, 9, 3, stride=2)
    assert GhostConv2d.from_conv(conv)(torch.empty(0, 4, 9, 9)).shape == (0, 9, 4, 4)


def test_computing_with_the_weight_says_where_it_is() -> None:
    with pytest.raises(GhostifyError, match=r"primary\.weight"):
        F.conv2d(torch.rand(1, 4, 5, 5), GhostConv2d(4, 8, 3).weight)
    assert GhostConv2d(4, 8, 3).bias is None  # what is added behind the concat


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_dtype_of_the_convolution_is_kept(dtype: torch.dtype) -> None:
    ghost = GhostConv2d.from_conv(nn.Conv2d(4, 8, 3, dtype=dtype), 2, 3)
    assert {p.dtype for p in ghost.parameters()} == {dtype}
    assert ghost(torch.zeros(1, 4, 5, 5, dtype=dtype)).dtype == dtype


def test_device_of_the_convolution_is_kept() -> None:
    ghost = GhostConv2d.from_conv(nn.Conv2d(4, 8, 3, device="meta"), 2, 3)
    assert {p.device.type for p in ghost.parameters()} == {"meta"}


def test_frozen_parameters_stay_frozen_and_modes_stay() -> None:
    conv = nn.Conv2d(4, 8, 3).requires_grad_(False).eval()
    ghost = GhostConv2d.from_conv(conv, 2, 3)
    assert not any(p.requires_grad for p in ghost.parameters())
    assert not any(m.training for m in ghost.modules())


def test_making_a_ghost_module_leaves_the_convolution_and_the_random_state_alone() -> None:
    conv = nn.Conv2d(4, 8, 3)
    before = copy.deepcopy(conv.state_dict())
    state = torch.get_rng_state()
    ghost = GhostConv2d.from_conv(conv, init="random", generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    with torch.no_grad():
        for parameter in ghost.parameters():
            parameter.zero_()
    assert all(torch.equal(conv.state_dict()[key], value) for key, value in before.items())


@pytest.fixture
def ghost() -> GhostConv2d:
    return GhostConv2d(6, 15, 3, padding=1, groups=1, s=2, d=3).eval()


@pytest.fixture
def image() -> Tensor:
    return torch.randn(2, 6, 8, 8, generator=torch.Generator().manual_seed(0))


def test_gradients_reach_both_parts(ghost: GhostConv2d, image: Tensor) -> None:
    ghost(image).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in ghost.parameters())


def test_gradients_are_right() -> None:
    ghost = GhostConv2d(2, 6, 3, groups=2, s=3, d=3, dtype=torch.float64)
    x = torch.randn(1, 2, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ghost, (x,))


def test_deepcopy_and_pickle_give_equal_outputs(ghost: GhostConv2d, image: Tensor) -> None:
    expected = ghost(image)
    assert torch.equal(copy.deepcopy(ghost)(image), expected)
    assert torch.equal(pickle.loads(pickle.dumps(ghost))(image), expected)


def test_state_dict_goes_into_another_ghost_module(ghost: GhostConv2d, image: Tensor) -> None:
    other = GhostConv2d(6, 15, 3, padding=1, s=2, d=3)
    stream = io.BytesIO()
    torch.save(ghost.state_dict(), stream)
    stream.seek(0)
    other.load_state_dict(torch.load(stream, weights_only=True))
    assert torch.equal(other(image), ghost(image))


def test_autocast_computes_in_the_low_type(ghost: GhostConv2d, image: Tensor) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        out = ghost(image)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), ghost(image), atol=0.05, rtol=0.05)


@pytest.mark.parametrize("groups", [1, 3])
def test_channels_last_goes_through(groups: int) -> None:
    ghost = GhostConv2d(6, 12, 3, padding=1, groups=groups, s=2).eval()
    x = torch.randn(2, 6, 8, 8)
    expected = ghost(x)
    lasting = copy.deepcopy(ghost).to(memory_format=torch.channels_last)
    out = lasting(x.to(memory_format=torch.channels_last))
    assert groups > 1 or out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out, expected)


@pytest.mark.parametrize("groups", [1, 3])
def test_a_converted_channels_last_convolution_stays_channels_last(groups: int) -> None:
    conv = nn.Conv2d(6, 12, 3, groups=groups).to(memory_format=torch.channels_last)
    ghost = GhostConv2d.from_conv(conv, 2, 3)
    assert ghost.primary.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("groups", [1, 3])
def test_compile_jit_trace_and_export_give_equal_outputs(groups: int) -> None:
    ghost = GhostConv2d(6, 12, 3, padding=1, groups=groups, s=2).eval()
    x = torch.randn(2, 6, 8, 8)
    with torch.no_grad():
        expected = ghost(x)
        torch._dynamo.reset()
        compiled = torch.compile(ghost, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(x), expected)
        torch.testing.assert_close(torch.jit.trace(ghost, x)(x), expected)
        torch.testing.assert_close(torch.export.export(ghost, (x,)).module()(x), expected)


def test_export_takes_any_batch_and_size(ghost: GhostConv2d, image: Tensor) -> None:
    from torch.export import Dim

    shapes = {0: Dim("batch", min=1), 2: Dim("height", min=4), 3: Dim("width", min=4)}
    program = torch.export.export(ghost, (image,), dynamic_shapes=(shapes,)).module()
    other = torch.randn(5, 6, 11, 6)
    torch.testing.assert_close(program(other), ghost(other))


@pytest.mark.parametrize("groups", [1, 3])
def test_symbolic_trace_goes_through(groups: int, image: Tensor) -> None:
    # As by tools that don't know ghost modules: feature extraction, quantisation.
    ghost = GhostConv2d(6, 12, 3, groups=groups, s=2).eval()
    assert torch.equal(torch.fx.symbolic_trace(ghost)(image), ghost(image))


@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("groups", [1, 3])
def test_jit_script_goes_through(s: int, groups: int, image: Tensor) -> None:
    ghost = GhostConv2d(6, 12, 3, groups=groups, s=s).eval()
    torch.testing.assert_close(torch.jit.script(ghost)(image), ghost(image))


def test_a_divisor_rounds_the_intrinsic_maps_up_while_ghosts_are_left() -> None:
    assert [intrinsic_channels(n, 4, 8) for n in (64, 90, 40, 12, 8)] == [16, 24, 16, 8, 2]
    assert intrinsic_channels(432, 4, 8, groups=9) == 108  # 9 does not divide 112
    for bad in (0, 1.5, True):
        with pytest.raises(SettingsError, match="divisor="):
            intrinsic_channels(64, 4, bad)


def test_a_module_with_a_divisor_keeps_what_its_intrinsic_maps_were() -> None:
    conv = nn.Conv2d(3, 20, 3, padding=1)
    ghost, x = GhostConv2d.from_conv(conv, 4, divisor=8), torch.rand(1, 3, 6, 6)
    assert ghost.primary.out_channels == 8 and ghost(x).shape == (1, 20, 6, 6)
    torch.testing.assert_close(ghost(x)[:, :8], conv(x)[:, :8])
    made = GhostConv2d(3, 20, 3, s=4, divisor=8)
    assert made.primary.out_channels == 8
