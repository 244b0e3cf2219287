"""Counting against a slow reference on real tensors, and what a count says of itself."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

import ghostify
from ghostify.cost import Count
from ghostify.errors import ModelError


def slow_count(model: nn.Module, *inputs: Tensor) -> tuple[int, int]:
    """MACs and activations of convolutions and linear layers, by hooks on a real forward pass."""
    macs = acts = 0

    def tally(module: nn.Module, args: Any, out: Tensor) -> None:
        nonlocal macs, acts
        if isinstance(module, _ConvNd):
            where = args[0] if isinstance(module, _ConvTransposeNd) else out
            filters = module.in_channels if isinstance(module, _ConvTransposeNd) else None
            per_position = prod(module.weight.shape) // (filters or module.out_channels)
            macs += where.numel() * per_position
            acts += out.numel()
        elif isinstance(module, nn.Linear):
            macs += out.numel() * module.in_features

    handles = [m.register_forward_hook(tally) for m in model.modules()]
    with torch.no_grad():
        model.eval()(*inputs)
    for handle in handles:
        handle.remove()
    return macs, acts


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        "googlenet",
        "lraspp_mobilenet_v3_large",
        "timm/hrnet_w18_small",
        "timm/test_byobnet",
        "timm/tf_mobilenetv3_small_minimal_100",
    ],
)
def test_real_networks_count_as_hooks_on_real_tensors_say(name: str) -> None:
    arguments = {"init_weights": False} if name == "googlenet" else {}
    model = ghostify.build(name, arguments)
    total = ghostify.count(model, input_size=(3, 96, 96)).total
    assert (total.macs, total.acts) == slow_count(model, torch.randn(1, 3, 96, 96))
    assert total.params == sum(p.numel() for p in model.parameters())


def test_a_converted_network_counts_as_hooks_on_real_tensors_say() -> None:
    model = ghostify.convert("resnet20-cifar", s=3, d=5)
    counted = ghostify.count(model, input_size=(3, 32, 32)).total
    assert (counted.macs, counted.acts) == slow_count(model, torch.randn(1, 3, 32, 32))


@settings(deadline=None, max_examples=80)
@given(data=st.data())
def test_a_convolution_of_any_kind_is_counted_exactly(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    transposed = data.draw(st.booleans())
    kinds = {
        (1, False): nn.Conv1d, (2, False): nn.Conv2d, (3, False): nn.Conv3d,
        (1, True): nn.ConvTranspose1d, (2, True): nn.ConvTranspose2d, (3, True): nn.ConvTranspose3d,
    }  # fmt: skip
    groups = data.draw(st.integers(1, 3))
    layer = kinds[dims, transposed](
        groups * data.draw(st.integers(1, 3)),
        groups * data.draw(st.integers(1, 3)),
        data.draw(st.integers(1, 3)),
        stride=data.draw(st.integers(1, 2)),
        padding=data.draw(st.integers(0, 1)),
        dilation=data.draw(st.integers(1, 2)),
        groups=groups,
        bias=data.draw(st.booleans()),
    )
    size = (layer.in_channels, *([7] * dims))
    x = torch.randn(data.draw(st.integers(1, 2)), *size)
    total = ghostify.count(layer, x).total
    assert (total.macs, total.acts) == slow_count(layer, x)
    assert total.conv_macs == total.macs


def count_of(function: Any, *args: Tensor, **state: Any) -> Count:
    """The count of a module whose forward is a function."""

    class Net(nn.Module):
        def forward(self, *args: Tensor) -> Any:
            return function(*args)

    return ghostify.count(Net(), args)


a, b = torch.empty(5, 7), torch.empty(7, 3)
batch_a, batch_b = torch.empty(4, 5, 7), torch.empty(4, 7, 3)
image, kernel = torch.empty(2, 6, 9, 9), torch.empty(8, 3, 3, 3)
q, k, v = torch.empty(2, 3, 10, 8), torch.empty(2, 3, 12, 8), torch.empty(2, 3, 12, 6)


@pytest.mark.parametrize(
    ("function", "args", "macs"),
    [
        (torch.mm, (a, b), 5 * 7 * 3),
        (torch.matmul, (a, b), 5 * 7 * 3),
        (lambda x, y: x @ y, (batch_a, batch_b), 4 * 5 * 7 * 3),
        (torch.matmul, (batch_a, b), 4 * 5 * 7 * 3),
        (torch.matmul, (a, torch.empty(7)), 5 * 7),
        (torch.dot, (torch.empty(7), torch.empty(7)), 7),
        (lambda x, y: torch.einsum("ij,jk->ik", x, y), (a, b), 5 * 7 * 3),
        (lambda x, y: torch.einsum("bij,bjk->bik", x, y), (batch_a, batch_b), 4 * 5 * 7 * 3),
        (lambda x, y: torch.einsum("bij,jk->bik", x, y), (batch_a, b), 4 * 5 * 7 * 3),
        (torch.addmm, (torch.empty(3), a, b), 5 * 7 * 3),
        (torch.baddbmm, (torch.empty(4, 5, 3), batch_a, batch_b), 4 * 5 * 7 * 3),
        (F.linear, (batch_a, torch.empty(11, 7)), 4 * 5 * 7 * 11),
        (F.linear, (batch_a, torch.empty(11, 7), torch.empty(11)), 4 * 5 * 7 * 11),
        (lambda x, w: F.conv2d(x, w, groups=2), (image, kernel), 2 * 8 * 7 * 7 * 27),
        (
            F.conv_transpose2d,
            (image, torch.empty(6, 4, 3, 3)),
            image.numel() * 4 * 9,
        ),
        (
            F.scaled_dot_product_attention,
            (q, k, v),
            2 * 3 * (10 * 8 * 12 + 10 * 12 * 6),
        ),
        (
            F.bilinear,
            (torch.empty(5, 4), torch.empty(5, 3), torch.empty(2, 4, 3)),
            5 * (2 * 4 * 3 + 2 * 3),
        ),
        (lambda x: F.relu(x) + x * x, (a,), 0),
        (lambda x: F.max_pool2d(x, 2), (image,), 0),
    ],
)
def test_functional_forms_are_counted_exactly(function: Any, args: Any, macs: int) -> None:
    counted = count_of(function, *args)
    assert counted.total.macs == macs
    assert counted.uncounted == {}


@pytest.mark.parametrize("fast_path", [True, False])
def test_multi_head_attention_counts_projections_and_both_products(fast_path: bool) -> None:
    length, width = 10, 16
    layer = nn.MultiheadAttention(width, 4, batch_first=True)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x, need_weights=not fast_path)[0]

    counted = ghostify.count(Net(), torch.empty(2, length, width))
    projections = 4 * 2 * length * width * width
    assert counted.total.macs == projections + 2 * 2 * length * length * width
    assert counted.uncounted == {}


def test_a_transformer_layer_counts_attention_and_feed_forward() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
    counted = ghostify.count(layer, torch.empty(2, 10, 16))
    attention = 4 * 2 * 10 * 16 * 16 + 2 * 2 * 10 * 10 * 16
    assert counted.total.macs == attention + 2 * 2 * 10 * 16 * 32


def test_a_shared_module_counts_once_for_params_and_each_time_for_macs() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(4, 4, 3, padding=1)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(self.first(x)))

    counted = ghostify.count(Net(), input_size=(4, 8, 8))
    assert counted.total.params == 4 * 4 * 9 + 4
    assert counted.total.macs == 3 * 4 * 8 * 8 * 36
    assert counted.total.acts == 3 * 4 * 8 * 8
    (layer,) = counted.layers
    assert (layer.name, layer.calls) == ("first", 3)


def test_tied_weights_count_once_for_params() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.Conv2d(4, 4, 3, bias=False))
    net[1].weight = net[0].weight
    assert ghostify.count(net, input_size=(4, 8, 8)).total.params == 4 * 4 * 9


def test_functional_convolution_counts_for_the_module_that_calls_it() -> None:
    class Blur(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, torch.ones(x.shape[1], 1, 3, 3, device=x.device), groups=x.shape[1])

    net = nn.Sequential(nn.Conv2d(3, 8, 3), Blur())
    counted = ghostify.count(net, input_size=(3, 10, 10))
    assert counted.by_module()["1"].macs == 8 * 6 * 6 * 9
    assert counted.by_module()["1"].acts == 8 * 6 * 6


def test_by_module_sums_up_all_that_is_inside() -> None:
    model = ghostify.build("resnet20-cifar")
    counted = ghostify.count(model, input_size=(3, 32, 32))
    stages = counted.by_module()
    inside = [c.cost for c in counted.layers if c.name.startswith("layer2.")]
    assert stages["layer2"].macs == sum(c.macs or 0 for c in inside)
    assert stages["layer2"].params == sum(p.numel() for p in model.layer2.parameters())


def test_an_operator_of_ones_own_is_reported_and_not_ignored() -> None:
    @torch.library.custom_op("ghostify_tests::cube", mutates_args=())
    def cube(x: Tensor) -> Tensor:
        return x**3

    @cube.register_fake
    def _(x: Tensor) -> Tensor:
        return torch.empty_like(x)

    counted = count_of(lambda x: cube(cube(x)), a)
    assert counted.uncounted == {"ghostify_tests::cube": 2}


@pytest.mark.parametrize(
    ("function", "op"),
    [
        (torch.fft.fft2, "aten::_fft_c2c"),
        (torch.fft.rfft2, "aten::_fft_r2c"),
        (lambda x: torch.cdist(x, x), "aten::_euclidean_dist"),
        (lambda x: torch.cdist(x, x, p=1), "aten::_cdist_forward"),
        (torch.linalg.inv, "aten::linalg_inv_ex"),
        (torch.linalg.svd, "aten::_linalg_svd"),
    ],
)
def test_an_op_that_multiplies_in_ways_without_a_rule_is_reported(function: Any, op: str) -> None:
    assert op in count_of(function, torch.empty(2, 40, 40)).uncounted


def test_an_lstm_counts_its_matrix_products() -> None:
    counted = ghostify.count(nn.LSTM(6, 5, batch_first=True), torch.empty(2, 9, 6))
    assert counted.total.macs == 2 * 9 * 4 * 5 * (6 + 5)


def test_counting_neither_runs_nor_changes_the_network(small_net: nn.Module) -> None:
    small_net.train()
    before = {key: value.clone() for key, value in small_net.state_dict().items()}
    calls: list[int] = []
    small_net.stem.weight.register_hook(lambda grad: calls.append(1))
    hooks = len(small_net.body._forward_hooks)
    ghostify.count(small_net)
    assert all(torch.equal(small_net.state_dict()[k], v) for k, v in before.items())
    assert all(m.training for m in small_net.modules())
    assert len(small_net.body._forward_hooks) == hooks


def test_counting_needs_no_memory_for_weights_or_activations() -> None:
    # 360 GB of weights, 13 TB of activations: there is no such memory.
    with torch.device("meta"):
        net = nn.Sequential(nn.Conv2d(3, 10**5, 3), nn.Conv2d(10**5, 10**5, 3))
    total = ghostify.count(net, input_size=(3, 4096, 4096)).total
    assert total.acts == 10**5 * (4094**2 + 4092**2)


def test_counting_leaves_the_random_state_alone(small_net: nn.Module) -> None:
    state = torch.get_rng_state()
    ghostify.count(small_net)
    assert torch.equal(torch.get_rng_state(), state)


def test_the_batch_counts() -> None:
    conv = nn.Conv2d(3, 4, 3)
    one, five = (ghostify.count(conv, torch.empty(n, 3, 8, 8)).total for n in (1, 5))
    assert five.macs == 5 * (one.macs or 0)


def test_keyword_inputs_and_several_inputs_are_taken() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, *, scale: Tensor, twice: bool = False) -> Tensor:
            out = F.linear(x, scale)
            return F.linear(out, scale) if twice else out

    inputs = {"x": torch.empty(2, 4), "scale": torch.empty(4, 4), "twice": True}
    assert ghostify.count(Net(), inputs).total.macs == 2 * 2 * 4 * 4
    assert count_of(torch.mm, a, b).total.macs == 105


def test_an_input_that_the_network_cannot_take_is_refused_with_the_place(
    small_net: nn.Module,
) -> None:
    with pytest.raises(ModelError, match=r"can't take an input of 1x4x32x32: .*conftest\.py:\d+"):
        ghostify.count(small_net, input_size=(4, 32, 32))


def test_weights_without_data_leave_a_count_that_needs_data_partial() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.late = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            if x.sum() > 0:
                x = self.late(x)
            return x

    with torch.device("meta"):
        net = Net()
    counted = ghostify.count(net, input_size=(3, 10, 10))
    assert counted.how == "partial"
    assert counted.stopped is not None and "test_counting.py:" in counted.stopped
    assert counted.stopped.endswith("(meta device), so that it can't be run for real")
    assert counted.total.macs is None and counted.total.acts is None
    assert [layer.cost.macs for layer in counted.layers] == [4 * 8 * 8 * 27, None]
    assert counted.total.params == sum(p.numel() for p in Net().parameters())


def test_tensors_made_on_the_cpu_in_forward_do_not_stop_the_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.after = nn.Conv2d(4, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.after(x + torch.arange(8.0))

    counted = ghostify.count(Net(), input_size=(3, 10, 10))
    assert counted.stopped is None
    assert counted.total.macs == 4 * 64 * 27 + 4 * 36 * 36


def test_a_view_that_relies_on_channels_last_strides_does_not_stop_the_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            out = F.gelu(self.conv(x.permute(0, 3, 1, 2)), approximate="tanh")
            return out.permute(0, 2, 3, 1).view(x.shape[0], -1, 4)

    x = torch.randn(2, 6, 6, 3)
    assert Net()(x).shape == (2, 36, 4)
    counted = ghostify.count(Net(), x)
    assert counted.stopped is None
    assert counted.output == (2, 36, 4)


def test_output_shapes_are_those_of_the_real_pass() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> dict[str, Any]:
            out = self.conv(x)
            return {"maps": [out, out.mean(1)], "name": "maps"}

    counted = ghostify.count(Net(), input_size=(3, 10, 10))
    assert counted.output == {"maps": [(1, 4, 8, 8), (1, 8, 8)], "name": "str"}


def test_batch_norm_in_train_mode_is_counted_in_eval_mode() -> None:
    # One value per channel: an error in train mode, and none in eval mode.
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).train()
    assert ghostify.count(net, input_size=(3, 1, 1)).stopped is None


def test_a_count_prints_as_the_report_of_the_same_network_and_its_repr_is_one_line() -> None:
    net = ghostify.build("resnet20-cifar")
    counted, report = ghostify.count(net), ghostify.report(net)
    title, _, rest = str(report).partition("\n")
    assert title == "resnet20-cifar" and str(counted) == rest and "layer3.0.conv2" in rest
    assert counted._repr_html_() in report._repr_html_()
    assert repr(counted).startswith(f"Count(params={counted.total.params}, ")
    assert len(repr(counted)) < 120
