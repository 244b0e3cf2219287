"""What data may be given, and that batches follow from the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ghostify.data.image_files import DataError
from ghostify.data.opening import held_out, open_pool, split_folder
from ghostify.data.pools import ItemPool, LoaderPool, Part, TensorPool
from ghostify.data.preparation import Preparation

PLAIN = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
SMALL, LARGE = (Preparation((3, size, size), **PLAIN) for size in (16, 80))
PARTS = [Part(0, 0, [3, 1]), Part(0, 1, [5, 2]), Part(1, 0, [0, 3])]


class Photos(Dataset):
    """Images of noise, labels 0, 1, 2, 0, ..."""

    def __init__(self, count: int = 6, size: int = 90) -> None:
        chance = np.random.default_rng(1)
        shape = (count, size, size + 10, 3)
        self.images = chance.integers(0, 256, shape, dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.images[index]), index % 3


class Restless(Dataset):
    """Tensors with noise of all three sources of chance."""

    def __len__(self) -> int:
        return 6

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        import random

        return torch.rand(3, 4, 4) + random.random() + float(np.random.rand()), index % 2


def images_of(pool, parts=PARTS, augment=True):
    return [images for images, _ in pool.batches(parts, 7, augment)]


@pytest.mark.parametrize("items", [Photos(), Restless()])
def test_images_do_not_depend_on_the_number_of_workers(items):
    none, two = (images_of(ItemPool(items, LARGE, workers)) for workers in (0, 2))
    assert all(torch.equal(a, b) for a, b in zip(none, two, strict=True))


@pytest.mark.parametrize("pool", [
    ItemPool(Photos(), LARGE, 0), ItemPool(Photos(), SMALL, 0), ItemPool(Restless(), SMALL, 0),
    TensorPool(torch.randn(6, 3, 16, 16), None),
])  # fmt: skip
def test_images_follow_from_epoch_and_index_whatever_came_before(pool):
    torch.manual_seed(5)
    whole = images_of(pool)
    torch.manual_seed(6)
    again = images_of(pool, PARTS[1:])
    assert all(torch.equal(a, b) for a, b in zip(whole[1:], again, strict=True))
    assert not torch.equal(whole[0][0], whole[2][1]), "image 3 in two epochs"


def test_reading_a_data_set_leaves_the_callers_chance_alone():
    torch.manual_seed(0), np.random.seed(0)
    wanted = torch.rand(1), np.random.rand()
    torch.manual_seed(0), np.random.seed(0)
    images_of(ItemPool(Restless(), SMALL, 0))
    images_of(LoaderPool(DataLoader(Restless(), batch_size=2, shuffle=True)))
    assert (torch.rand(1), np.random.rand()) == wanted


def test_small_images_are_decoded_once():
    class Counting(Photos):
        read = 0

        def __getitem__(self, index):
            Counting.read += 1
            return super().__getitem__(index)

    pool = ItemPool(Counting(), SMALL, 0)
    before = Counting.read
    images_of(pool)
    images_of(pool)
    assert Counting.read - before == 5, "the indices 3, 1, 5, 2, 0"


def test_an_evaluation_varies_nothing():
    pool = ItemPool(Photos(), LARGE, 0)
    one, other = (images_of(pool, [Part(None, 0, [4])], augment=False) for _ in range(2))
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[0][0], LARGE.fit(Photos()[4][0]))


def test_folders_of_classes_are_labelled_in_the_order_of_their_names(tmp_path, write_images):
    folder = write_images(tmp_path / "data", {"cat": 2, "ant": 1, "bee": 3})
    pool = open_pool(folder, SMALL)
    _, labels = next(pool.batches([Part(None, 0, list(range(6)))], 0, False))
    assert pool.classes == ("ant", "bee", "cat") and labels.tolist() == [0, 1, 1, 1, 2, 2]


def test_a_folder_of_images_alone_has_no_labels(tmp_path, write_images):
    pool = open_pool(write_images(tmp_path, {"some": 4}) / "some", SMALL)
    assert len(pool) == 4 and not pool.labelled and pool.classes is None


def test_train_and_test_inside_a_folder_are_found(tmp_path, write_images):
    for kind in ("train", "test"):
        write_images(tmp_path / kind, {"a": 1, "b": 1})
    assert split_folder(tmp_path, None) == (tmp_path / "train", tmp_path / "test")
    assert split_folder(tmp_path, "mine") == (tmp_path / "train", "mine")
    assert held_out(tmp_path) == tmp_path / "test"
    (tmp_path / "val").mkdir()
    assert split_folder(str(tmp_path), None)[1] == tmp_path / "val"
    assert held_out(str(tmp_path)) == tmp_path / "test"
    assert split_folder(tmp_path / "train", None) == (tmp_path / "train", None)


@pytest.mark.parametrize(
    "data, words",
    [
        ("no/such/folder", ("no/such/folder", "is no folder")),
        (torch.zeros(3, 4, 4), ("(3, 4, 4)", "(N, C, H, W)")),
        ((torch.zeros(2, 3, 4, 4), torch.zeros(3).long()), ("(3,)", "2 images")),
        ((torch.zeros(2, 3, 4, 4), torch.zeros(2)), ("float32", "whole numbers")),
        (torch.zeros(0, 3, 4, 4), ("no images",)),
        ({1, 2}, ("A set", "DataLoader")),
        (TensorDataset(torch.zeros(2, 4), torch.zeros(2)), ("shape (4,)", "no image")),
        (DataLoader(TensorDataset(torch.zeros(2, 4))), ("shape (1, 4)", "no images")),
    ],
)
def test_what_is_no_data_is_refused(data, words):
    with pytest.raises(DataError) as caught:
        list(open_pool(data, SMALL).batches([Part(None, 0, [0])], 0, False))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_folder_without_images_is_refused(tmp_path, write_images):
    with pytest.raises(DataError, match="holds no images"):
        open_pool(tmp_path, SMALL)
    write_images(tmp_path, {"a": 1, "b": 0})
    with pytest.raises(DataError, match="b holds no images"):
        open_pool(tmp_path, SMALL)


def test_a_damaged_image_is_named(tmp_path, write_images):
    write_images(tmp_path, {"a": 2})
    (tmp_path / "a" / "001.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"a/001\.png can't be read"):
        images_of(open_pool(tmp_path, SMALL), [Part(None, 0, [0, 1])])


def test_processes_share_a_loaders_batches():
    loader = DataLoader(TensorDataset(torch.arange(96.0).view(8, 3, 2, 2)), batch_size=4)
    whole = images_of(LoaderPool(loader), [Part(0, 0, []), Part(0, 1, [])])
    halves = [
        images_of(LoaderPool(loader), [Part(0, place, [], (rank, 2)) for place in (0, 1)])
        for rank in (0, 1)
    ]
    for place in (0, 1):
        assert torch.equal(torch.cat([half[place] for half in halves]), whole[place])


def test_a_shuffling_loader_goes_on_at_any_batch_as_it_would_have():
    loader = DataLoader(Restless(), batch_size=2, shuffle=True)
    parts = [Part(epoch, place, []) for epoch in (0, 1) for place in (0, 1, 2)]
    whole = images_of(LoaderPool(loader), parts)
    torch.manual_seed(9)
    later = images_of(LoaderPool(loader), parts[4:])
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], later, strict=True))
