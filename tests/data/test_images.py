"""From files and pixels to a network's input: sizes, crops, chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from ghostify.data.calibration import Preprocessing
from ghostify.data.images import Recipe, shift_and_mirror
from ghostify.numerics.chance import draws, permutation

RGB = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def recipe(height: int, width: int, crop_pct: float = 1.0) -> Recipe:
    prepare = Preprocessing((3, height, width), **RGB)
    return Recipe(prepare, crop_pct, Image.Resampling.BILINEAR)


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cut_one(image: torch.Tensor, chance: np.ndarray) -> torch.Tensor:
    """What `shift_and_mirror` does to one image, step by step."""
    channels, height, width = image.shape
    if chance[0] < 0.5:
        image = image.flip(2)
    below, right = height // 8, width // 8
    canvas = torch.zeros(channels, height + 2 * below, width + 2 * right, dtype=image.dtype)
    canvas[:, below : below + height, right : right + width] = image
    top, left = int(chance[1] * (2 * below + 1)), int(chance[2] * (2 * right + 1))
    return canvas[:, top : top + height, left : left + width]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(1, 40), st.integers(0, 2**31))
def test_images_are_shifted_and_mirrored_each_in_its_own_way(count, height, width, seed):
    images = torch.randint(256, (count, 3, height, width), dtype=torch.uint8)
    indices = torch.randint(10_000, (count,)).tolist()
    made = shift_and_mirror(images, (seed, 2), indices)
    chance = draws((seed, 2), indices, 3)
    assert all(torch.equal(made[i], cut_one(images[i], chance[i])) for i in range(count))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=8), st.integers(0, 2**40))
def test_the_chance_of_an_image_does_not_depend_on_the_others(indices, seed):
    together = draws((seed, 1), indices, 4)
    alone = np.concatenate([draws((seed, 1), [index], 4) for index in indices])
    assert (together == alone).all() and (together >= 0).all() and (together < 1).all()


def test_the_chance_is_even_and_another_one_in_each_epoch():
    first, second = (draws((0, epoch), list(range(20_000)), 2) for epoch in (0, 1))
    for found in (first, second):
        counts = np.histogram(found[:, 0], bins=10, range=(0, 1))[0]
        assert abs(counts - 2000).max() < 6 * 2000**0.5
        assert abs(np.corrcoef(found.T)[0, 1]) < 0.03
    assert abs(np.corrcoef(first[:, 0], second[:, 0])[0, 1]) < 0.03


def test_an_order_holds_each_image_once_and_follows_from_its_key():
    assert sorted(permutation(50, 1, 2)) == list(range(50))
    assert permutation(50, 1, 2) == permutation(50, 1, 2) != permutation(50, 1, 3)


def test_an_image_of_the_networks_size_is_taken_pixel_by_pixel():
    image = noise(32, 32)
    assert (recipe(32, 32).fit(image).permute(1, 2, 0).numpy() == np.array(image)).all()


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (8, 9), (256, 256)])
def test_the_middle_of_a_larger_image_is_cut_out(size):
    torchvision = pytest.importorskip("torchvision")
    image = noise(*size)
    made = recipe(112, 112, crop_pct=0.875).fit(image)
    like = torchvision.transforms.Compose([
        torchvision.transforms.Resize(128), torchvision.transforms.CenterCrop(112)
    ])  # fmt: skip
    wanted = torch.from_numpy(np.array(like(image))).permute(2, 0, 1)
    # The rounding of the longer side, and so the sampling, may differ by a pixel.
    if 1 in {s / min(size) for s in size} and size[0] == size[1]:
        assert torch.equal(made, wanted)
    assert made.shape == wanted.shape == (3, 112, 112)
    assert (made.float() - wanted.float()).abs().mean() < 12


def test_a_random_crop_is_a_part_of_the_image_and_mirrored_half_of_the_time():
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (150, 1, 3))
    image, own = Image.fromarray(ramp), recipe(96, 96)
    rising, spans = 0, []
    for index in range(60):
        row = own.crop_at_random(image, draws((0, 0), [index], 41)[0])[0, 40].float()
        rising += bool(row[-1] > row[0])
        spans.append(float(row.max() - row.min()))
    assert 15 < rising < 45
    assert min(spans) < 90 < max(spans) <= 199


def test_pixels_are_normalised_and_other_tensors_left_alone():
    pixels = torch.randint(256, (2, 3, 4, 4), dtype=torch.uint8)
    made = recipe(4, 4).normalise(pixels)
    wanted = (pixels[1, 2] / 255 - RGB["mean"][2]) / RGB["std"][2]
    assert torch.allclose(made[1, 2], wanted)
    ready = torch.randn(1, 3, 4, 4)
    assert recipe(4, 4).normalise(ready) is ready


def test_crop_and_interpolation_are_what_the_network_says():
    network = nn.Conv2d(3, 4, 1)
    network.pretrained_cfg = {"crop_pct": 0.95, "interpolation": "bicubic"}
    large, small = (Preprocessing((3, size, size), **RGB) for size in (224, 32))
    assert Recipe.of(network, large) == Recipe(large, 0.95, Image.Resampling.BICUBIC)
    plain = nn.Conv2d(3, 4, 1)
    assert Recipe.of(plain, large).crop_pct == 0.875 and Recipe.of(plain, small).crop_pct == 1
