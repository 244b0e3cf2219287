"""The model card: what it says, and that nobody's own text is written over."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import ghostify
from ghostify.errors import GhostifyWarning, SavedFolderError
from ghostify.saving.card import CARD, is_untouched


@pytest.fixture(scope="module")
def converted() -> nn.Module:
    return ghostify.convert("resnet20-cifar", s=2)


@pytest.fixture
def folder(converted: nn.Module, tmp_path: Path) -> Path:
    return ghostify.save(converted, tmp_path / "out")


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_it_says_what_the_network_was_what_it_costs_and_how_to_load_it(folder: Path) -> None:
    card = (folder / CARD).read_text()
    assert card.startswith("---\n")
    assert front_matter(card) == {
        "license": "unknown",
        "library_name": "ghostify",
        "tags": ["ghostify", "pytorch", "safetensors", "model-compression", "c-ghost"],
    }
    assert "`resnet20-cifar`, converted (c-ghost) by ghostify: 19 layers replaced" in card
    assert "| MACs | 40.6M | 21.1M | 1.92 |" in card
    assert "near chance" in card
    assert next(folder.glob("model-*.safetensors")).name in card
    assert is_untouched(folder / CARD)


def test_the_lines_that_load_it_do(folder: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (folder / CARD).read_text(), re.DOTALL)
    names: dict = {}
    exec(block.replace("FOLDER", str(folder)), names)
    assert isinstance(names["network"], nn.Module)


def test_a_network_without_a_name_is_loaded_with_its_original(small_net, tmp_path: Path) -> None:
    card = (ghostify.save(ghostify.convert(small_net), tmp_path / "out") / CARD).read_text()
    assert 'ghostify.load("FOLDER", model=original)' in card and "SmallNet" in card


def test_a_network_of_the_users_code_needs_trust(small_net, tmp_path: Path) -> None:
    saved = ghostify.save(ghostify.convert(small_net), tmp_path / "out", source="nets.py:```a`")
    card = (saved / CARD).read_text()
    assert "trust=True)  # runs nets.py:'''a'\n```\n" in card


def test_what_the_warm_start_said_is_in_it(small_net, tmp_path: Path) -> None:
    fitted = ghostify.convert(small_net, calibration=torch.rand(8, 3, 16, 16))
    card = (ghostify.save(fitted, tmp_path / "out") / CARD).read_text()
    assert "warm start from 8 images" in card and "near chance" not in card


def test_the_next_save_writes_it_anew(folder: Path, small_net) -> None:
    ghostify.save(ghostify.convert(small_net), folder)
    card = (folder / CARD).read_text()
    assert "SmallNet" in card and "resnet20" not in card and is_untouched(folder / CARD)


@pytest.mark.parametrize("change", ["license", "added", "all", "bytes", "empty"])
def test_what_a_person_wrote_stays(folder: Path, small_net, change: str) -> None:
    card = folder / CARD
    if change == "license":
        card.write_text(card.read_text().replace("unknown", "mit", 1))
    elif change == "added":
        card.write_text(card.read_text() + "\nMy notes.\n")
    else:
        card.write_bytes({"all": b"mine", "bytes": b"\xff\xfe\x00", "empty": b""}[change])
    before = card.read_bytes()
    with pytest.warns(GhostifyWarning, match=r"README\.md is not as ghostify wrote it"):
        ghostify.save(ghostify.convert(small_net), folder)
    assert card.read_bytes() == before
    assert isinstance(ghostify.load(folder, small_net), nn.Module)


def test_a_link_is_not_followed(folder: Path, converted: nn.Module, tmp_path: Path) -> None:
    mine = tmp_path / "mine.md"
    (folder / CARD).rename(mine)
    (folder / CARD).symlink_to(mine)
    before = mine.read_bytes()
    with pytest.warns(GhostifyWarning):
        ghostify.save(converted, folder)
    assert mine.read_bytes() == before and (folder / CARD).is_symlink()


def test_a_folder_in_its_place_stays(folder: Path, converted: nn.Module) -> None:
    (folder / CARD).unlink()
    (folder / CARD).mkdir()
    with pytest.warns(GhostifyWarning):
        ghostify.save(converted, folder)
    assert (folder / CARD).is_dir()


def test_a_folder_with_a_readme_of_somebody_elses_is_refused(converted, tmp_path: Path) -> None:
    (tmp_path / CARD).write_text("mine")
    with pytest.raises(SavedFolderError, match="holds other things"):
        ghostify.save(converted, tmp_path)
    assert (tmp_path / CARD).read_text() == "mine"


def test_a_card_alone_keeps_no_save_away(folder: Path, converted: nn.Module) -> None:
    (folder / "recipe.yaml").unlink()
    ghostify.save(converted, folder)
    assert is_untouched(folder / CARD)


def test_the_same_network_has_the_same_card(folder: Path, converted, tmp_path: Path) -> None:
    again = ghostify.save(converted, tmp_path / "again")
    assert (again / CARD).read_bytes() == (folder / CARD).read_bytes()


def test_nothing_of_it_is_needed_to_load(folder: Path) -> None:
    (folder / CARD).unlink()
    assert isinstance(ghostify.load(folder), nn.Module)
