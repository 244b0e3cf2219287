"""The G-Ghost tables of the paper (11, 13-15, 17, 18), counted; REPRODUCING.md has the rows."""

import pytest

import ghostify
from ghostify.api import preview

_CIFAR = {"preset": "cifar", "ratio": 0.5}
_REGNET = {"preset": "regnet", "ratio": 0.5}


def _count(name, **settings):
    model = ghostify.build(name)
    return preview(model, mode="g-ghost", **settings).after


@pytest.mark.parametrize(
    ("settings", "params", "macs"),
    [
        pytest.param({"mix": "none"}, "0.361", "53.7", id="without mix (Table 11, 14)"),
        pytest.param({"mix": "none", "cheap": "identity"}, "0.358", "53.3", id="identity"),
        pytest.param({"mix": "none", "cheap": "none"}, "0.41", "60.8", id="no cheap operation"),
        pytest.param({"mix": "none", "cheap": 3}, "0.38", "56.9", id="3x3 (Table 14)"),
        pytest.param({"mix": "none", "cheap": 5}, "0.43", "63.2", id="5x5 (Table 14)"),
    ],
)
def test_resnet56_has_the_params_and_macs_of_the_cifar_tables(settings, params, macs):
    cost = _count("resnet56-cifar", **_CIFAR, **settings)
    assert f"{cost.params / 1e6:.{len(params) - 2}f}" == params
    assert f"{cost.macs / 1e6:.1f}" == macs


def test_resnet56_with_mix_has_the_macs_of_table_11_when_pooling_is_counted():
    cost = _count("resnet56-cifar", **_CIFAR)
    thin_maps = [(7, 8, 32), (7, 16, 16), (7, 32, 8)]  # thin blocks, their channels, their size
    pooling = sum(blocks * channels * size * size for blocks, channels, size in thin_maps)
    assert f"{cost.params / 1e6:.3f}" == "0.371"
    assert f"{(cost.macs + pooling) / 1e6:.1f}" == "53.8"


@pytest.mark.parametrize(
    ("mix", "params", "macs", "acts"),
    [("none", "14.306", "2289", "3.299"), ("fc", "14.621", "2290", "3.300")],
)
def test_resnet34_has_the_figures_of_table_15(mix, params, macs, acts):
    cost = _count("resnet34", mix=mix)
    assert f"{cost.params / 1e6:.3f}" == params
    assert f"{cost.macs / 1e6:.0f}" == macs
    assert f"{cost.acts / 1e6:.3f}" == acts


@pytest.mark.parametrize(
    ("name", "params", "macs", "acts"),
    [
        ("regnet_x_3_2gf", 10_511_000, "1801.7", "8.723"),
        ("timm/regnetx_032", 10_511_000, "1801.7", "8.723"),
        ("regnet_x_16gf", 32_381_704, "8997.4", "19.545"),
        ("timm/regnetx_160", 32_381_704, "8997.4", "19.545"),
    ],
)
def test_regnets_of_torchvision_and_timm_have_the_figures_of_tables_17_and_18(
    name, params, macs, acts
):
    cost = _count(name, **_REGNET)
    assert cost.params == params
    assert f"{cost.macs / 1e6:.1f}" == macs
    assert f"{cost.acts / 1e6:.3f}" == acts


def test_the_original_regnet_has_the_figures_of_table_17():
    before = ghostify.count(ghostify.build("regnet_x_3_2gf")).total
    assert before.params == 15_296_552
    assert f"{before.macs / 1e6:.1f} {before.acts / 1e6:.3f}" == "3176.6 11.366"
