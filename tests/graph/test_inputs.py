"""Inputs worked out from a network, and those a caller gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.api import preview
from ghostify.errors import SettingsError
from ghostify.graph.inputs import candidate_inputs


def assumed(model: nn.Module) -> str:
    counted = ghostify.count(model)
    assert counted.assumed and counted.stopped is None
    return counted.inputs


def test_without_a_configuration_it_is_224() -> None:
    assert assumed(nn.Sequential(nn.Conv2d(3, 4, 3))) == "1x3x224x224"


def test_channels_are_those_of_the_first_convolution() -> None:
    assert assumed(nn.Sequential(nn.ReLU(), nn.Conv2d(7, 4, 3))) == "1x7x224x224"


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("default_cfg", {"input_size": (3, 48, 48)}),
        ("pretrained_cfg", SimpleNamespace(input_size=(3, 48, 48))),
        ("config", SimpleNamespace(image_size=48)),
        ("image_size", 48),
        ("img_size", (48, 48)),
    ],
)
def test_the_size_is_that_of_the_networks_own_configuration(attribute: str, value: Any) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3))
    setattr(model, attribute, value)
    assert assumed(model) == "1x3x48x48"


def test_a_network_that_takes_one_size_alone_is_tried_with_others() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 5), nn.Flatten(), nn.Linear(4 * 24 * 24, 10))
    assert assumed(model) == "1x1x28x28"


def test_a_space_to_depth_stem_takes_an_ordinary_image() -> None:
    model = nn.Sequential(nn.PixelUnshuffle(4), nn.Conv2d(48, 8, 3))
    # 48 channels run through the stem, but don't fit the convolution; three do.
    assert assumed(model) == "1x3x224x224"


def test_a_network_for_pairs_of_images_gets_two() -> None:
    class Flow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 4, 3)

        def forward(self, one: Tensor, other: Tensor, steps: int = 2) -> Tensor:
            return self.conv(torch.cat([one, other], 1))

    assert assumed(Flow()) == "1x3x224x224, 1x3x224x224"
    report = preview(Flow(), input_size=(3, 32, 32))
    assert report is not None and report.inputs == "1x3x32x32, 1x3x32x32"


def test_one_and_three_dimensional_networks_get_signals_and_clips() -> None:
    assert assumed(nn.Conv1d(2, 4, 3)) == "1x2x112"
    assert assumed(nn.Conv3d(3, 4, 3)) == "1x3x16x112x112"


def test_the_dtype_is_that_of_the_parameters() -> None:
    (first, *_) = candidate_inputs(nn.Conv2d(3, 4, 3).double())
    assert first.args[0].dtype == torch.float64


@pytest.mark.parametrize("size", [(), (3, 0, 8), (3, -1, 8), (3, 8.5, 8)])
def test_a_size_that_makes_no_sense_is_refused(size: Any) -> None:
    with pytest.raises(SettingsError, match="makes no sense"):
        ghostify.count(nn.Conv2d(3, 4, 3), input_size=size)


def test_examples_are_used_for_their_shapes_alone() -> None:
    x = torch.full((2, 3, 9, 9), torch.nan)
    (inputs,) = candidate_inputs(nn.Conv2d(3, 4, 3), x)
    assert inputs.args[0].is_meta and not inputs.assumed
    assert str(inputs) == "2x3x9x9"


def test_an_example_may_be_a_tuple_a_dictionary_or_nested() -> None:
    x = torch.zeros(1, 3, 8, 8)
    (several,) = candidate_inputs(nn.Identity(), (x, [x, {"k": x}], 3))
    assert str(several) == "1x3x8x8, 1x3x8x8, 1x3x8x8"
    assert several.args[2] == 3
    (named,) = candidate_inputs(nn.Identity(), {"image": x, "scale": 2})
    assert named.kwargs["scale"] == 2 and named.kwargs["image"].is_meta
