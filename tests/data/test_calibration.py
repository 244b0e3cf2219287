"""Calibration images are the same, whatever they come from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from ghostify.data.calibration import gather
from ghostify.data.image_files import DataError
from ghostify.data.preparation import preparation_of
from ghostify.data.spool import Spool
from ghostify.progress import Milestone

SIZE = (3, 16, 16)
PLAIN = preparation_of(nn.Identity(), SIZE, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def content(spool: Spool) -> Tensor:
    return torch.cat(list(spool.batches(100)))


@pytest.fixture
def pixels() -> Tensor:
    drawn = torch.randint(0, 256, (12, *SIZE), generator=torch.Generator().manual_seed(0))
    return drawn.to(torch.uint8)


@pytest.fixture
def folder(tmp_path: Path, pixels: Tensor) -> Path:
    for index, image in enumerate(pixels):
        path = tmp_path / "images" / f"class{index // 6}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return tmp_path / "images"


def test_folder_tensor_and_data_set_give_the_same_images(folder: Path, pixels: Tensor) -> None:
    ready = pixels.float() / 255
    labels = torch.zeros(12)
    taken = [
        content(gather(source, 5, 3, PLAIN))
        for source in (folder, str(folder), ready, TensorDataset(ready, labels))
    ]
    assert all(torch.equal(one, taken[0]) for one in taken)


@pytest.mark.parametrize("samples, total", [(5, 5), (100, 12)])
def test_reading_tells_how_many_images_are_read(folder: Path, samples: int, total: int) -> None:
    told: list[Milestone] = []
    gather(folder, samples, 0, PLAIN, progress=told.append)
    assert told[2] == f"reading calibration images, 2 of {total}"
    assert [each.share for each in told] == [i / total for i in range(total)]


def test_a_loader_gives_its_first_images_without_labels(pixels: Tensor) -> None:
    ready = pixels.float() / 255
    loader = DataLoader(TensorDataset(ready, torch.zeros(12)), batch_size=4)
    assert torch.equal(content(gather(loader, 6, 0, None)), ready[:6])


def test_another_seed_chooses_other_images(pixels: Tensor) -> None:
    ready = pixels.float()
    assert not torch.equal(content(gather(ready, 5, 0, None)), content(gather(ready, 5, 1, None)))


def test_an_image_of_another_shape_is_brought_to_size(tmp_path: Path) -> None:
    Image.new("L", (40, 20)).save(tmp_path / "grey.png")
    assert content(gather(tmp_path, 1, 0, PLAIN)).shape == (1, *SIZE)


@pytest.mark.parametrize("kind", ["missing", "empty", "broken"])
def test_a_folder_without_images_is_refused_in_one_sentence(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "images"
    if kind != "missing":
        folder.mkdir()
    if kind == "broken":
        (folder / "a.jpg").write_text("no image")
    with pytest.raises(DataError, match=r"images|image|folder"):
        gather(folder, 4, 0, PLAIN)


def test_a_tensor_without_a_dimension_for_samples_is_refused() -> None:
    with pytest.raises(DataError, match=r"of shape \(\) make no sense: give tensors \(N, ...\)"):
        gather(torch.zeros(()), 4, 0, None)


def test_images_that_lie_class_by_class_come_mixed() -> None:
    by_class = torch.arange(4.0).repeat_interleave(25).view(100, 1, 1, 1)
    found = torch.cat(list(gather(by_class, 100, 0, None).batches(100))).flatten()
    assert sorted(found.tolist()) == by_class.flatten().tolist()
    assert len(found[:25].unique()) == 4


def test_no_images_are_no_calibration() -> None:
    with pytest.raises(DataError, match="holds no images"):
        gather(torch.zeros(0, *SIZE), 4, 0, None)


class Stream(IterableDataset):
    """Items one by one, without a length."""

    def __iter__(self):
        return ((torch.full(SIZE, float(i)), i) for i in range(7))


class Broken(Dataset):
    """Its third item can't be read."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Tensor:
        if index == 2:
            raise KeyError("pixels")
        return torch.zeros(SIZE)


def test_a_data_set_without_a_length_is_taken_item_by_item() -> None:
    found = content(gather(Stream(), 5, 0, None))
    assert found[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("source, words", [
    (Broken(), "Item 2 of the data can't be read"),
    (DataLoader(Broken(), batch_size=2), "Batch 1 of the calibration data can't be read"),
    (5, "A int is no calibration data"),
    ("", "name of the folder of images is empty"),
])  # fmt: skip
def test_what_can_not_be_read_is_one_sentence(source, words: str) -> None:
    with pytest.raises(DataError, match=words):
        gather(source, 4, 0, PLAIN)


def test_hidden_files_are_no_images(folder: Path) -> None:
    (folder / "class0" / "._000.png").write_bytes(b"macOS writes these")
    assert len(content(gather(folder, 100, 0, PLAIN))) == 12


@pytest.mark.parametrize("dtype, largest, ending", [
    (np.uint16, 65535, "png"), (np.int32, 65535, "tif"), (np.float32, 1.0, "tif"),
    (np.float32, 255.0, "tif"), (np.uint8, 255, "png"),
])  # fmt: skip
def test_pixels_of_more_than_eight_bits_keep_their_brightness(
    dtype, largest: float, ending: str, tmp_path: Path
) -> None:
    ramp = np.linspace(0, largest, 256).reshape(16, 16).astype(dtype)
    Image.fromarray(ramp).save(tmp_path / f"ramp.{ending}")
    found = content(gather(tmp_path, 1, 0, PLAIN))[0, 0].flatten()
    assert torch.allclose(found, torch.linspace(0, 1, 256), atol=0.006)


def test_a_dark_image_of_sixteen_bits_stays_dark(tmp_path: Path) -> None:
    Image.fromarray(np.full((16, 16), 200, np.uint16)).save(tmp_path / "dark.png")
    assert content(gather(tmp_path, 1, 0, PLAIN)).max() < 0.005
