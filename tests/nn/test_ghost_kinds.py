"""Ghost modules of every kind of convolution: Eq. 2-3 computed slowly, and what PyTorch can do."""

from __future__ import annotations

import copy
import pickle
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

import ghostify
from ghostify.errors import SettingsError
from ghostify.nn import GhostConv
from ghostify.nn.ghost_kinds import GHOST_KINDS, ghost_kind

KINDS: list[tuple[type[_ConvNd], dict[str, Any]]] = [
    (nn.Conv1d, {"kernel_size": 5, "stride": 2, "padding": 2, "padding_mode": "circular"}),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1}),
    (nn.Conv3d, {"kernel_size": (3, 2, 1), "dilation": (2, 1, 1), "bias": False}),
    (nn.ConvTranspose1d, {"kernel_size": 4, "stride": 2, "padding": 1}),
    (nn.ConvTranspose2d, {"kernel_size": (3, 2), "stride": 2, "output_padding": (1, 0)}),
    (nn.ConvTranspose3d, {"kernel_size": 2, "stride": (1, 2, 2), "bias": False}),
]
every_kind = pytest.mark.parametrize(("kind", "given"), KINDS, ids=[k.__name__ for k, _ in KINDS])


def build(kind: type[_ConvNd], given: dict[str, Any], groups: int = 1) -> tuple[_ConvNd, Tensor]:
    torch.manual_seed(0)
    conv = kind(4, 12, groups=groups, **given).eval()  # type: ignore[call-arg]
    return conv, torch.randn(2, 4, *(7, 6, 5)[: len(conv.kernel_size)])


def slow_cheap(kernel: Tensor, maps: Tensor) -> Tensor:
    """One cheap operation of Eq. 3 on ``(N, *sides)``, tap by tap."""
    around = [size // 2 for size in reversed(kernel.shape) for _ in range(2)]
    padded, out = F.pad(maps, around), torch.zeros_like(maps)
    for tap in product(*map(range, kernel.shape)):
        sides = zip(tap, maps.shape[1:], strict=True)
        out = out + kernel[tap] * padded[(slice(None), *(slice(t, t + n) for t, n in sides))]
    return out


def slow_ghost(ghost: GhostConv, x: Tensor) -> Tensor:
    """Eq. 2-3 map by map; each group is a ghost module of its own."""
    intrinsic, cheap = ghost.primary(x), ghost.cheap
    assert cheap is not None
    m = intrinsic.shape[1] // ghost.groups
    outputs = []
    for group in intrinsic.unflatten(1, (ghost.groups, m)).unbind(1):
        row = len(outputs) // (m * ghost.s) * m * (ghost.s - 1)
        ghosts = []
        for i, _ in product(range(m), range(ghost.s - 1)):
            made = slow_cheap(cheap.weight[row + len(ghosts), 0], group[:, i])
            bias = 0 if cheap.bias is None else cheap.bias[row + len(ghosts)]
            ghosts.append(made + bias)
        outputs += [*group.unbind(1), *ghosts]
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("groups", [1, 2])
@every_kind
def test_ghost_module_computes_equations_2_and_3(
    kind: type[_ConvNd], given: dict[str, Any], groups: int
) -> None:
    conv, x = build(kind, given, groups)
    generator = torch.Generator().manual_seed(1)
    for s, d in ((2, 3), (3, 1), (3, (3, 5, 1)[: len(conv.kernel_size)])):
        ghost = GHOST_KINDS[kind].from_conv(conv, s, d, init="random", generator=generator)
        assert ghost(x).shape == conv(x).shape
        torch.testing.assert_close(ghost(x), slow_ghost(ghost, x))


@pytest.mark.parametrize("groups", [1, 2])
@every_kind
def test_intrinsic_maps_are_the_convolutions_own_first_maps(
    kind: type[_ConvNd], given: dict[str, Any], groups: int
) -> None:
    conv, x = build(kind, given, groups)
    ghost = GHOST_KINDS[kind].from_conv(conv, 2, 3)
    ours, theirs = (f(x).unflatten(1, (groups, -1)) for f in (ghost, conv))
    kept = 6 // groups
    torch.testing.assert_close(ours[:, :, :kept], theirs[:, :, :kept])


@pytest.mark.parametrize("groups", [1, 2])
@every_kind
def test_filters_that_are_multiples_are_converted_without_loss(
    kind: type[_ConvNd], given: dict[str, Any], groups: int
) -> None:
    conv, x = build(kind, given, groups)
    half = 6 // groups
    with torch.no_grad():
        if conv.transposed:
            conv.weight[:, half:] = conv.weight[:, :half] * -1.5
        else:
            filters = conv.weight.unflatten(0, (groups, -1))
            filters[:, half:] = filters[:, :half] * -1.5
    torch.testing.assert_close(GHOST_KINDS[kind].from_conv(conv, 2, 3)(x), conv(x))


@every_kind
def test_parameters_and_macs_are_those_of_equations_4_and_5(
    kind: type[_ConvNd], given: dict[str, Any]
) -> None:
    conv, x = build(kind, {**given, "bias": False})
    net = nn.Sequential(conv)
    converted = ghostify.convert(net, s=3, d=3, costlier=True, input_size=x.shape[1:])
    dims, m = len(conv.kernel_size), 4
    kernel = torch.tensor(conv.kernel_size).prod().item()
    counted = ghostify.count(converted, input_size=x.shape[1:]).total
    assert counted.params == m * 4 * kernel + 2 * m * 3**dims
    read, made = x[0, 0].numel(), conv(x)[0, 0].numel()
    pixels = read if conv.transposed else made
    assert counted.macs == pixels * m * 4 * kernel + made * 2 * m * 3**dims
    row = ghostify.report(converted).rows[0]
    assert row.eq5 == pytest.approx(conv.weight.numel() / counted.params)


def test_equation_4_counts_the_pixels_that_a_transposed_convolution_makes() -> None:
    net = nn.Sequential(nn.ConvTranspose2d(16, 32, 4, stride=2, padding=1, bias=False))
    converted = ghostify.convert(net, s=2, d=3, input_size=(16, 7, 9))
    row = ghostify.report(converted).rows[0]
    assert row.ratios.macs == pytest.approx(row.eq4)
    assert row.ratios.params == pytest.approx(row.eq5)
    assert row.eq4 < row.eq5
    assert f"{row.eq4:.2f}, {row.eq5:.2f}" in str(ghostify.report(converted))


@every_kind
def test_names_and_settings_are_pytorchs(kind: type[_ConvNd], given: dict[str, Any]) -> None:
    conv, x = build(kind, given)
    ghost = GHOST_KINDS[kind](4, 12, **given)
    assert isinstance(ghost, ghost_kind(conv))
    settings = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation"]
    for name in [*settings, "groups", "padding_mode", *["output_padding"] * conv.transposed]:
        assert getattr(ghost, name) == getattr(conv, name)
    assert ghost(x).shape == conv(x).shape
    assert ghost(x[0]).shape == conv(x[0]).shape
    assert ghost(x[:0]).shape == conv(x[:0]).shape


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("ordered", [False, True])
@every_kind
def test_copies_traces_scripts_and_exports_give_equal_outputs(
    kind: type[_ConvNd], given: dict[str, Any], groups: int, ordered: bool
) -> None:
    conv, x = build(kind, given, groups)
    ghost = GHOST_KINDS[kind].from_conv(conv, 2, 3).eval()
    if ordered:
        ghost.set_order(torch.randperm(12))
    expected = ghost(x)
    for other in (copy.deepcopy(ghost), pickle.loads(pickle.dumps(ghost))):
        assert torch.equal(other(x), expected)
    assert torch.equal(torch.fx.symbolic_trace(ghost)(x), expected)
    torch.testing.assert_close(torch.jit.script(ghost)(x), expected)
    torch.testing.assert_close(torch.export.export(ghost, (x,)).module()(x), expected)


@pytest.mark.parametrize("kind", [nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d])
def test_an_output_size_is_taken_as_a_transposed_convolution_takes_it(
    kind: type[_ConvNd],
) -> None:
    conv, x = build(kind, {"kernel_size": 3, "stride": 2})
    size = [2 * side + 2 for side in x.shape[2:]]
    ghost = GHOST_KINDS[kind].from_conv(conv, 2, 3)
    assert ghost(x, output_size=size).shape == conv(x, output_size=size).shape


@every_kind
def test_the_self_check_passes_for_a_network_of_each_kind(
    kind: type[_ConvNd], given: dict[str, Any]
) -> None:
    conv, x = build(kind, given)
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[len(conv.kernel_size)]
    net = nn.Sequential(conv, norm(12), nn.ReLU())
    converted = ghostify.convert(
        net, s=2, d=3, costlier=True, example_inputs=x, calibration="data-free"
    )
    found = list(ghostify.verify(converted, x, original=net))
    assert [check for check in found if check.status == "failed"] == []
    assert {check.name for check in found if check.status == "ok"} >= {"save/load", "torch.export"}


@pytest.mark.parametrize("d", [(3,), (3, 3, 3), (2, 3), (), [3, 3]])
def test_sizes_that_do_not_fit_the_maps_are_refused(d: Any) -> None:
    with pytest.raises(SettingsError, match="d="):
        ghostify.GhostConv2d(4, 8, 3, d=d)


def test_a_plan_with_sizes_goes_to_data_and_back() -> None:
    net = nn.Sequential(nn.Conv2d(2, 8, (9, 1), padding=(4, 0)), nn.ConvTranspose2d(8, 8, 4, 2))
    plan = ghostify.plan(net, input_size=(2, 20, 1))
    assert plan.replaced[0].d == (3, 1)
    assert plan.replaced[1].upsampling == 4
    assert ghostify.Plan.from_dict(plan.to_dict()) == plan
    wrong = plan.to_dict()
    wrong["replaced"][0]["d"] = [3]
    with pytest.raises(ghostify.GhostifyError, match="d="):
        ghostify.Plan.from_dict(wrong)


def test_a_layer_whose_calls_give_maps_of_several_sizes_keeps_its_kernel() -> None:
    class Pyramid(nn.Module):
        """One head on maps of 4 x 4 pixels and of one."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.head(x), self.head(F.avg_pool2d(x, 4))

    assert ghostify.plan(Pyramid(), input_size=(8, 4, 4)).replaced[0].d == 3
