"""Random variation of training images, and the chance that it follows."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ghostify.data.augmentation import crop_at_random, shift_and_mirror
from ghostify.data.preparation import Preparation
from ghostify.numerics.chance import draws, permutation


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


def test_a_random_crop_is_a_part_of_the_image_and_mirrored_half_of_the_time():
    ramp = np.tile(np.arange(200, dtype=np.uint8)[None, :, None], (150, 1, 3))
    image = Image.fromarray(ramp)
    own = Preparation((3, 96, 96), (0.5,) * 3, (0.2,) * 3)
    rising, spans = 0, []
    for index in range(60):
        row = crop_at_random(image, own, draws((0, 0), [index], 41)[0])[0, 40].float()
        rising += bool(row[-1] > row[0])
        spans.append(float(row.max() - row.min()))
    assert 15 < rising < 45
    assert min(spans) < 90 < max(spans) <= 199
