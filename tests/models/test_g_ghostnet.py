"""G-GhostNet: Table 2's structure, written out once more and counted by hand."""

from __future__ import annotations

import pytest
import torch

import ghostify
from ghostify.errors import SettingsError
from ghostify.models import ResidualBottleneck, g_ghostnet
from ghostify.models.frame import scaled
from ghostify.nn import GGhostStage


def _block_params(c_in, c_out, has_shortcut):
    middle = 3 * c_out
    reduced = scaled(middle, 0.25)
    convs = c_in * middle + 9 * middle**2 + middle * c_out
    norms = 2 * (middle + middle + c_out)
    se = 2 * middle * reduced + reduced + middle
    return convs + norms + se + has_shortcut * (c_in * c_out + 2 * c_out)


def _params_by_hand(width, classes):
    total = 27 * scaled(16, width) + 2 * scaled(16, width)
    before = scaled(16, width)
    for channels, thin in ((24, 1), (40, 1), (80, 5), (160, 5)):
        c = scaled(channels, width)
        r = scaled(0.6 * c)
        g = c - r
        total += _block_params(before, c, True)
        total += _block_params(c, r, True) + (thin - 1) * _block_params(r, r, False)
        total += c * g + 2 * g  # cheap operation and its norm
        total += thin * r * g + g  # mix
        before = c
    head = scaled(960, width)
    return total + before * head + 2 * head + head * 1280 + 1280 + 1280 * classes + classes


@pytest.mark.parametrize(("width", "classes"), [(0.5, 10), (1.0, 1000), (1.3, 7)])
def test_parameters_are_those_counted_by_hand(width, classes):
    with torch.device("meta"):
        net = g_ghostnet(width, num_classes=classes)
    assert sum(p.numel() for p in net.parameters()) == _params_by_hand(width, classes)


def test_all_stages_are_g_ghost_stages_that_end_in_the_concat():
    net = g_ghostnet()
    stages = [net.get_submodule(f"stage{n}") for n in (1, 2, 3, 4)]
    assert all(isinstance(stage, GGhostStage) and stage.last is None for stage in stages)
    assert [len(stage.thin) for stage in stages] == [1, 1, 5, 5]
    assert [stage.channels for stage in stages] == [24, 40, 80, 160]
    assert [stage.complicated for stage in stages] == [16, 24, 48, 96]
    assert all(stage.mix is not None for stage in stages)


def test_every_block_has_squeeze_and_excitation_and_expands_by_3():
    blocks = [m for m in g_ghostnet().modules() if isinstance(m, ResidualBottleneck)]
    assert len(blocks) == 4 + 1 + 1 + 5 + 5
    assert all(b.expand.conv.out_channels == 3 * b.project[0].out_channels for b in blocks)
    assert all(b.se.reduce.in_channels == b.conv.conv.out_channels for b in blocks)


def test_stages_put_out_the_sizes_of_table_2():
    with torch.device("meta"):
        net, image = g_ghostnet(), torch.empty(1, 3, 224, 224)
    shapes = [tuple(maps.shape[1:]) for maps in net.forward_features(image)]
    assert shapes == [(24, 56, 56), (40, 28, 28), (80, 14, 14), (160, 7, 7)]


def test_every_parameter_gets_a_gradient():
    net = g_ghostnet(0.5, num_classes=5)
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_pyramid_has_the_stages_maps():
    pyramid = g_ghostnet(0.5, in_chans=1, features_only=True, stages=(3, 4)).eval()
    maps = pyramid(torch.zeros(1, 1, 64, 64))
    assert [tuple(m.shape[1:]) for m in maps] == [(40, 4, 4), (80, 2, 2)]
    assert pyramid.channels == (40, 80)


def test_it_is_built_by_name_and_can_be_converted():
    net = ghostify.build("g-ghostnet", {"width": 0.5, "num_classes": 10})
    cheaper = ghostify.convert(net, mode="c-ghost", s=2)
    assert ghostify.report(cheaper).ratios.macs > 1.5
    assert cheaper.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 10)


@pytest.mark.parametrize("ratio", [0, 1, -0.1, "half", True])
def test_a_ratio_that_makes_no_sense_is_refused(ratio):
    with pytest.raises(SettingsError, match="ratio="):
        g_ghostnet(ratio=ratio)
