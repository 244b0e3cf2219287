"""One file becomes the same tensor for all parts of ghostify, and for timm and torchvision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ghostify
from ghostify import train
from ghostify.data.image_files import DataError
from ghostify.data.preparation import Preparation, preparation_of

RGB = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}
SIZES = [(100, 300), (300, 100), (8, 9), (256, 256), (375, 500), (501, 333)]
"""Heights and widths."""


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def resnet18() -> nn.Module:
    """A network with timm's configuration: 224 pixels, bicubic, 0.95 of them."""
    return pytest.importorskip("timm").create_model("resnet18", num_classes=2)


def resnet20() -> nn.Module:
    """A network for 32 pixels."""
    return ghostify.build("resnet20-cifar", {"num_classes": 2})


def seen_by(network: nn.Module, use: Callable[[], Any]) -> list[Tensor]:
    """The images that a network, or a copy of it, is run on."""
    images: list[Tensor] = []
    hook = network.register_forward_pre_hook(lambda _, args: images.extend(args[0]))
    try:
        use()
    finally:
        hook.remove()
    return [image for image in images if not image.is_meta]


@pytest.mark.parametrize(
    "build, last, side, height, width",
    [
        (resnet18, "layer4.1.conv2", 224, 375, 500),
        (resnet20, "layer3.2.conv2", 32, 375, 500),
        (resnet20, "layer3.2.conv2", 32, 32, 32),
    ],
)
def test_calibration_analysis_and_evaluation_see_one_file_as_the_same_tensor(
    tmp_path: Path, build: Callable[[], nn.Module], last: str, side: int, height: int, width: int
) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        noise(height, width).save(tmp_path / name / "image.png")
    network = build().eval()
    calibrated = seen_by(
        network, lambda: ghostify.convert(network, s=2, only=[last], calibration=tmp_path)
    )
    analysed = seen_by(network, lambda: ghostify.analyze(network, tmp_path, layers=[last]))
    evaluated = seen_by(network, lambda: train.evaluate(network, tmp_path))
    assert calibrated and analysed and len(evaluated) == 2
    assert evaluated[0].shape == (3, side, side)
    assert all(torch.equal(x, evaluated[0]) for x in (*calibrated, *analysed, *evaluated))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"crop_pct": 0.95, "interpolation": "bicubic"},
        {"crop_pct": 0.9, "crop_mode": "squash", "interpolation": "bicubic"},
        {"crop_pct": 1.0, "crop_mode": "border", "interpolation": "lanczos"},
        # Of inputs that are not square timm 1.0.9 forgets the interpolation: the default's, then.
        {"crop_pct": 0.9, "input_size": (3, 128, 192)},
    ],
)
def test_files_are_prepared_as_timm_does(
    tmp_path: Path, size: tuple[int, int], config: dict[str, Any]
) -> None:
    timm_data = pytest.importorskip("timm.data")
    config = {"input_size": (3, 112, 112), "interpolation": "bilinear", **RGB, **config}
    network = nn.Conv2d(3, 4, 1)
    network.pretrained_cfg = config
    image = noise(*size)
    image.save(tmp_path / "image.png")
    wanted = timm_data.create_transform(**timm_data.resolve_data_config(pretrained_cfg=config))
    made = preparation_of(network, config["input_size"]).read(tmp_path / "image.png")
    assert torch.equal(made, wanted(image))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name, weights", [("resnet18", "DEFAULT"), ("resnet50", "IMAGENET1K_V2")])
def test_files_are_prepared_as_torchvisions_weights_want_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], name: str, weights: str
) -> None:
    torchvision = pytest.importorskip("torchvision")
    state = torchvision.models.get_model(name).state_dict()
    enum = torchvision.models.get_model_weights(name)
    monkeypatch.setattr(enum, "get_state_dict", lambda *_, **__: state)
    network = ghostify.build(name, weights=weights)
    image = noise(*size)
    image.save(tmp_path / "image.png")
    found = preparation_of(network, (3, 224, 224))
    assert torch.equal(found.read(tmp_path / "image.png"), enum[weights].transforms()(image))
    assert not found.assumed


def test_a_converted_network_prepares_files_as_its_original() -> None:
    network = resnet20()
    network.default_cfg = {**network.default_cfg, **RGB}
    converted = ghostify.convert(network, s=2)
    rebuilt = ghostify.convert(network, mode="g-ghost", ratio=0.5)
    for one in (network, converted, rebuilt):
        assert preparation_of(one, (3, 32, 32)).mean == RGB["mean"]


def test_a_slender_image_is_prepared_without_an_enormous_one_in_between() -> None:
    assert Preparation((3, 112, 112), **RGB, crop_pct=0.875).fit(noise(1, 60_000)).shape[0] == 3


def test_grey_networks_take_the_mean_of_the_colours_normalisation(tmp_path: Path) -> None:
    noise(40, 30).save(tmp_path / "image.png")
    found = preparation_of(nn.Conv2d(1, 4, 1), (1, 28, 28))
    assert found.mean == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
    assert found.read(tmp_path / "image.png").shape == (1, 28, 28)


@pytest.mark.parametrize("size", [(4, 32, 32), (3, 32), (3, 8, 32, 32)])
def test_other_inputs_than_images_need_tensors(size: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match="give tensors"):
        preparation_of(nn.Identity(), size)


def test_normalisation_is_the_one_the_network_names() -> None:
    prepare = preparation_of(ghostify.build("resnet20-cifar"), (3, 32, 32))
    assert prepare.mean == (0.485, 0.456, 0.406)
    assert not prepare.assumed and not prepare.notes


def test_normalisation_is_said_to_be_assumed_where_no_network_names_one() -> None:
    found = preparation_of(nn.Identity(), (3, 16, 16))
    assert found.assumed and "ImageNet" in found.notes[0]
    given = preparation_of(nn.Identity(), (3, 16, 16), **RGB)
    assert not given.assumed and given.std == RGB["std"]


def test_an_image_of_the_networks_size_is_taken_pixel_by_pixel():
    image = noise(32, 32)
    assert (
        Preparation((3, 32, 32), **RGB).fit(image).permute(1, 2, 0).numpy() == np.array(image)
    ).all()


def test_pixels_are_normalised_and_other_tensors_left_alone():
    pixels = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    made = Preparation((3, 4, 4), **RGB).normalise(pixels)
    wanted = (pixels[1, 2] / 255 - RGB["mean"][2]) / RGB["std"][2]
    assert torch.allclose(made[1, 2], wanted)
    ready = torch.randn(1, 3, 4, 4)
    assert Preparation((3, 4, 4), **RGB).normalise(ready) is ready


def test_crop_and_interpolation_are_what_the_network_says() -> None:
    network = nn.Conv2d(3, 4, 1)
    network.pretrained_cfg = {"crop_pct": 0.95, "interpolation": "bicubic"}
    network.default_cfg = {**RGB, "crop_pct": 0.9}
    large, small = (3, 224, 224), (3, 32, 32)
    wanted = Preparation(large, **RGB, crop_pct=0.95, interpolation=Image.Resampling.BICUBIC)
    assert preparation_of(network, large) == wanted
    assert preparation_of(network, small).crop_pct == 1, "nothing is cut off small images"
    plain = nn.Conv2d(3, 4, 1)
    assert preparation_of(plain, large).crop_pct == 0.875
    assert preparation_of(plain, small).crop_pct == 1
