"""The figures of the paper's tables, as worked out in the reproduction notes: each one exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import ghostify
from ghostify.api import preview
from ghostify.cost import Cost

CIFAR = (3, 32, 32)
IMAGENET = (3, 224, 224)
FC_TOO: dict[str, Any] = {"linear": True, "bias_mode": "primary"}

# Network, settings (None: the original), parameters, MACs in millions (rounded as in the notes).
# The tables of the CIFAR networks count convolutions alone, that of ResNet50 the fc as well.
CONV_ONLY = [
    ("vgg16-cifar", None, 14_986_698, 313.20),
    ("vgg16-cifar", {"s": 2, "d": 1}, 7_633_578, 156.74),
    ("vgg16-cifar", {"s": 2, "d": 3}, 7_650_474, 157.84),
    ("vgg16-cifar", {"s": 2, "d": 5}, 7_684_266, 160.05),
    # The first convolution's ghost module costs more than it (Eq. 4: 0.71); the table converts it.
    ("vgg16-cifar", {"s": 2, "d": 7, "costlier": True}, 7_734_954, 163.37),
    ("vgg16-cifar", {"s": 3, "d": 3}, 5_218_440, 106.97),
    ("vgg16-cifar", {"s": 4, "d": 3}, 3_982_362, 80.17),
    ("vgg16-cifar", {"s": 5, "d": 3}, 3_269_625, 65.40),
    ("resnet56-cifar", None, 853_018, 125.49),
    ("resnet56-cifar", {"s": 2, "d": 1}, 429_882, 63.01),
    ("resnet56-cifar", {"s": 2, "d": 3}, 438_010, 65.14),
]
FC_IN = [
    ("resnet50", None, 25_557_032, 4089.2),
    ("resnet50", {"s": 2, "keep": "stem"}, 13_953_512, 2151.0),
    ("resnet50", {"s": 4, "keep": "stem"}, 8_151_752, 1181.9),
    ("resnet50", {"s": 2, "keep": "stem", **FC_TOO}, 12_929_512, 2150.0),
    ("resnet50", {"s": 4, "keep": "stem", **FC_TOO}, 6_615_752, 1180.4),
]


def cost_of(name: str, settings: dict[str, Any] | None) -> Cost:
    """Costs as a fresh count sees them, of the network itself and not of its plan."""
    with torch.device("meta"):
        model = ghostify.build(name)
    if settings is not None:
        model = ghostify.convert(model, mode="c-ghost", **settings)
    size = CIFAR if name.endswith("cifar") else IMAGENET
    return ghostify.count(model, input_size=size).total


@pytest.mark.parametrize(("name", "settings", "params", "macs"), CONV_ONLY)
def test_cifar_table_is_reproduced_exactly(
    name: str, settings: dict[str, Any] | None, params: int, macs: float
) -> None:
    cost = cost_of(name, settings)
    assert cost.params == params
    assert cost.conv_macs is not None
    assert f"{cost.conv_macs / 1e6:.2f}" == f"{macs:.2f}"


@pytest.mark.parametrize(("name", "settings", "params", "macs"), FC_IN)
def test_resnet50_table_is_reproduced_exactly(
    name: str, settings: dict[str, Any] | None, params: int, macs: float
) -> None:
    cost = cost_of(name, settings)
    assert cost.params == params
    assert cost.macs is not None
    assert f"{cost.macs / 1e6:.1f}" == f"{macs:.1f}"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vgg16-cifar", {"s": 2, "d": 7}),
        ("resnet56-cifar", {"s": 2, "d": 3}),
        ("resnet50", {"s": 4, "keep": "stem", **FC_TOO}),
    ],
)
def test_the_plan_promises_what_the_converted_network_counts(
    name: str, settings: dict[str, Any]
) -> None:
    with torch.device("meta"):
        model = ghostify.build(name)
    size = CIFAR if name.endswith("cifar") else IMAGENET
    report = preview(model, **settings, input_size=size)
    assert report is not None
    assert report.after == cost_of(name, settings)
    assert report.before == cost_of(name, None)


@pytest.mark.parametrize(
    ("name", "size", "millions"),
    [
        ("resnet50", 224, 11.114),
        ("resnet101", 224, 16.232),
        ("resnet152", 224, 22.554),
        ("densenet121", 224, 6.899),
        ("densenet169", 224, 7.301),
        ("densenet201", 224, 7.853),
        ("densenet161", 224, 11.064),
        ("resnext50_32x4d", 224, 14.401),
        ("efficientnet_b3", 300, 23.830),
    ],
)
def test_activations_are_those_of_table_18(name: str, size: int, millions: float) -> None:
    with torch.device("meta"):
        model = ghostify.build(name)
    acts = ghostify.count(model, input_size=(3, size, size)).total.acts
    assert acts is not None
    assert f"{acts / 1e6:.3f}" == f"{millions:.3f}"


def test_regnet_x_3_2gf_counts_as_table_17_and_18_say() -> None:
    # Its constructor reads a tensor's value, so that it can't be built on the meta device.
    total = ghostify.count(ghostify.build("regnet_x_3_2gf"), input_size=IMAGENET).total
    assert total.params == 15_296_552
    assert total.macs is not None and total.acts is not None
    assert f"{total.macs / 1e6:.1f}" == "3176.6"
    assert f"{total.acts / 1e6:.3f}" == "11.366"


def test_activations_stay_what_they_were_in_a_ghost_module() -> None:
    # Primary and cheap outputs together are the channels of the convolution (n divisible by s).
    report = preview(ghostify.build("resnet20-cifar"), s=2)
    assert report is not None
    assert report.ratios.acts == 1.0
