"""Shadows: copies without data."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.errors import ModelError
from ghostify.graph.meta_copy import meta_copy


def test_a_meta_copy_has_the_shapes_and_types_and_no_data(small_net: nn.Module) -> None:
    small_net.half()
    meta = meta_copy(small_net)
    real = small_net.state_dict()
    for key, value in meta.state_dict().items():
        assert value.is_meta
        assert (value.shape, value.dtype) == (real[key].shape, real[key].dtype)
    assert type(meta) is type(small_net)


def test_tied_parameters_stay_tied_and_frozen_ones_frozen() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    net[0].bias.requires_grad_(False)
    meta = meta_copy(net)
    assert meta[0].weight is meta[1].weight
    assert not meta[0].bias.requires_grad and meta[1].bias.requires_grad


def test_tensors_that_are_plain_attributes_have_no_data_either() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.ones(3)
            self.anchors = [torch.ones(2), torch.ones(4)]
            self.table = {"mean": torch.zeros(3)}

        def forward(self, x: Tensor) -> Tensor:
            return x

    meta = meta_copy(Net())
    assert meta.scale.is_meta
    assert all(anchor.is_meta for anchor in meta.anchors)
    assert meta.table["mean"].is_meta


def test_a_network_that_cannot_be_copied_is_refused_with_the_way_out() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"can't be copied .*make copy\.deepcopy\(model\) work"):
        ghostify.plan(net)


def test_functions_that_watch_layers_do_not_see_the_meta_copy(small_net: nn.Module) -> None:
    seen: list[Tensor] = []
    for module in small_net.modules():
        module.register_forward_hook(lambda module, args, out: seen.append(out))
        module.register_forward_pre_hook(lambda module, args: seen.extend(args))
    ghostify.count(small_net)
    ghostify.plan(small_net)
    assert seen == []


def test_methods_that_watch_layers_work_in_the_meta_copy() -> None:
    class Skip(nn.Module):
        """Takes the maps that a hook of its own keeps."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.kept: list[Tensor] = []
            self.first.register_forward_hook(self.keep)

        def keep(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            self.kept.append(out)

        def forward(self, x: Tensor) -> Tensor:
            out = self.last(self.first(x))
            return out + self.kept.pop()

    net = Skip()
    counted = ghostify.count(net, input_size=(3, 8, 8))
    assert counted.stopped is None and counted.output == (1, 8, 6, 6)
    assert net.kept == []
    x = torch.randn(1, 3, 8, 8)
    assert ghostify.convert(net, input_size=(3, 8, 8))(x).shape == (1, 8, 6, 6)


def test_a_lazy_norm_has_a_meta_copy_and_a_copy() -> None:
    # PyTorch's own deepcopy refuses the buffers of a lazy norm.
    net = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Conv2d(8, 16, 3))
    assert ghostify.count(net, input_size=(3, 8, 8)).output == (1, 16, 4, 4)
    converted = ghostify.convert(net, input_size=(3, 8, 8))
    assert isinstance(converted[3], ghostify.GhostConv2d)
    assert converted(torch.rand(2, 3, 8, 8)).shape == (2, 16, 4, 4)
    assert isinstance(net[1].running_mean, nn.parameter.UninitializedBuffer)
