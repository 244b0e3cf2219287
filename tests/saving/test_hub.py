"""Sending saved folders to the Hub and loading them from there, with a stand-in of the Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import ghostify
from ghostify.errors import GhostifyError, GhostifyWarning, SavedFolderError
from ghostify.saving import is_hub_name
from ghostify.saving.card import CARD, is_untouched
from tests.saving.stand_in_hub import StandIn, stand_in_hub

constants = pytest.importorskip("huggingface_hub.constants", reason="the extra hub is missing")
NAME = "somebody/resnet20-ghost"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    with stand_in_hub() as running:
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        places = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", places)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
        yield running


@pytest.fixture(scope="module")
def converted() -> nn.Module:
    return ghostify.convert("resnet20-cifar", s=2)


@pytest.fixture
def folder(converted: nn.Module, tmp_path: Path) -> Path:
    return ghostify.save(converted, tmp_path / "out")


def test_what_was_sent_is_loaded_bit_for_bit(hub: StandIn, folder: Path, converted) -> None:
    assert ghostify.push(folder, NAME) == f"{hub.url}/{NAME}"
    loaded = ghostify.load(f"hf://{NAME}")
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(loaded.eval()(x), converted.eval()(x))


def test_weights_recipe_and_card_are_sent_and_nothing_else(hub: StandIn, folder: Path) -> None:
    (folder / "training").mkdir()
    (folder / "training" / "metrics.csv").write_text("step\n")
    (folder / "secret.txt").write_text("mine")
    ghostify.push(folder, NAME)
    (weights,) = folder.glob("model-*.safetensors")
    assert set(hub.repos[NAME][-1]) == {weights.name, "recipe.yaml", CARD}
    assert hub.repos[NAME][-1][weights.name] == weights.read_bytes()


def test_only_recipe_and_weights_are_fetched(hub: StandIn, folder: Path) -> None:
    ghostify.push(folder, NAME)
    hub.repos[NAME][-1] |= {"evil.py": b"1/0", "pytorch_model.bin": b"pickle"}
    hub.asked.clear()
    ghostify.load(f"hf://{NAME}")
    fetched = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    (weights,) = folder.glob("model-*.safetensors")
    assert fetched == {"recipe.yaml", weights.name}


def test_a_program_is_sent_and_fetched_by_those_who_trust_it(hub: StandIn, tmp_path) -> None:
    network = ghostify.convert(nn.Sequential(nn.Conv2d(3, 16, 3)), s=2, input_size=(3, 8, 8))
    ghostify.push(ghostify.save(network, tmp_path / "out", program=True), NAME)
    with pytest.raises(SavedFolderError, match="trust=True"):
        ghostify.load(f"hf://{NAME}")
    assert not any(".pt2" in line for line in hub.asked)
    x = torch.rand(2, 3, 8, 8)
    loaded = ghostify.load(f"hf://{NAME}", trust=True)
    torch.testing.assert_close(loaded(x), network.eval()(x))


def test_the_card_there_says_how_to_load_it_from_there(
    hub: StandIn, folder: Path, tmp_path
) -> None:
    ghostify.push(folder, NAME)
    there = tmp_path / "there.md"
    there.write_bytes(hub.repos[NAME][-1][CARD])
    assert f'ghostify.load("hf://{NAME}")' in there.read_text() and is_untouched(there)
    assert 'ghostify.load("FOLDER")' in (folder / CARD).read_text()


def test_a_card_that_was_edited_there_stays(hub: StandIn, folder: Path) -> None:
    ghostify.push(folder, NAME)
    edited = hub.repos[NAME][-1][CARD].replace(b"unknown", b"mit", 1)
    hub.repos[NAME][-1][CARD] = edited
    with pytest.warns(GhostifyWarning, match=r"README\.md of hf://.* stays as it is"):
        ghostify.push(folder, NAME)
    assert hub.repos[NAME][-1][CARD] == edited


def test_a_card_that_was_edited_here_is_sent_as_it_is(hub: StandIn, folder: Path) -> None:
    ghostify.push(folder, NAME)
    (folder / CARD).write_text("my own words")
    ghostify.push(folder, NAME)
    assert hub.repos[NAME][-1][CARD] == b"my own words"


def test_an_earlier_revision_is_loaded_when_named(hub: StandIn, folder: Path, converted) -> None:
    ghostify.push(folder, NAME)
    first, _ = hub.commit_of(NAME, "main") or ("", {})
    other = ghostify.convert("resnet20-cifar", s=4)
    ghostify.push(ghostify.save(other, folder), NAME)
    assert ghostify.load(f"hf://{NAME}").conv1.s == 4
    assert ghostify.load(f"hf://{NAME}@{first}").conv1.s == 2


def test_it_is_private_when_asked(hub: StandIn, folder: Path) -> None:
    ghostify.push(folder, NAME, private=True)
    assert hub.private[NAME]


def test_without_the_hub_the_cache_is_used(hub: StandIn, folder: Path, monkeypatch) -> None:
    ghostify.push(folder, NAME)
    ghostify.load(f"hf://{NAME}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert isinstance(ghostify.load(f"hf://{NAME}"), nn.Module)


def test_code_that_it_names_is_not_run_without_trust(hub: StandIn, tmp_path: Path) -> None:
    code = tmp_path / "nets.py"
    code.write_text("raise SystemExit('ran')")
    net = ghostify.convert(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), input_size=(3, 8, 8))
    ghostify.push(ghostify.save(net, tmp_path / "own", source=f"{code}:build"), NAME)
    with pytest.raises(SavedFolderError, match="names code"):
        ghostify.load(f"hf://{NAME}")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("hf://nobody/nothing", "there is no such repository"),
        (f"hf://{NAME}@nowhere", "there is no such revision"),
        ("hf://", "is no place on the Hub"),
        ("hf://a", "is no place on the Hub"),
        ("hf://a/b/c", "is no place on the Hub"),
        ("hf://../../etc", "is no place on the Hub"),
        (f"hf://{NAME}@", "is no place on the Hub"),
        (f"hf://{NAME}@../x", "is no place on the Hub"),
    ],
)
def test_a_place_that_is_none_is_one_sentence(hub, folder, place: str, words: str) -> None:
    ghostify.push(folder, NAME)
    with pytest.raises(SavedFolderError, match=words):
        ghostify.load(place)


def test_a_repository_of_something_else_is_refused(hub: StandIn) -> None:
    hub.repos[NAME] = [{"config.json": b"{}"}]
    with pytest.raises(SavedFolderError, match=r"it has no recipe\.yaml"):
        ghostify.load(f"hf://{NAME}")


def test_weights_that_were_changed_there_are_refused(hub: StandIn, folder: Path) -> None:
    ghostify.push(folder, NAME)
    (weights,) = (name for name in hub.repos[NAME][-1] if name.endswith(".safetensors"))
    hub.repos[NAME][-1][weights] += b"more"
    with pytest.raises(SavedFolderError, match="safetensors"):
        ghostify.load(f"hf://{NAME}")


def test_a_recipe_that_names_another_file_has_it_not_fetched(hub: StandIn, folder: Path) -> None:
    ghostify.push(folder, NAME)
    files = hub.repos[NAME][-1]
    name = next(name for name in files if name.endswith(".safetensors"))
    files["recipe.yaml"] = files["recipe.yaml"].replace(name.encode(), b"../../evil.safetensors")
    hub.asked.clear()
    with pytest.raises(SavedFolderError, match="not inside the folder"):
        ghostify.load(f"hf://{NAME}")
    assert not any("evil" in line for line in hub.asked)


def test_what_is_no_saved_network_is_not_sent(hub: StandIn, tmp_path: Path) -> None:
    with pytest.raises(SavedFolderError, match="is no saved network"):
        ghostify.push(tmp_path, NAME)
    assert hub.repos == {}


@pytest.mark.parametrize("name", ["", "a", "a/b/c", "../x", "a/b@c", "a b/c", 5, None])
def test_a_name_that_is_no_repository_is_refused(hub: StandIn, folder: Path, name) -> None:
    with pytest.raises(GhostifyError, match="is no repository"):
        ghostify.push(folder, name)
    assert hub.repos == {}


def test_a_hub_that_is_not_there_is_one_sentence(folder: Path, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(SavedFolderError, match=r"can't be sent to hf://"):
        ghostify.push(folder, NAME, token="hf_x")
    with pytest.raises(SavedFolderError, match=r"can't be fetched \(the Hub can't be reached"):
        ghostify.load(f"hf://{NAME}")


def test_the_command_sends_and_others_take_its_name(folder: Path, tmp_path: Path) -> None:
    def ghostify_command(*args: object, url: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": "hf_x", "HF_HOME": str(tmp_path / "h")}
        command = [sys.executable, "-m", "ghostify", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=env)

    with stand_in_hub() as hub:
        sent = ghostify_command("push", folder, NAME, url=hub.url)
        assert (sent.returncode, sent.stdout) == (0, f"{hub.url}/{NAME}\n"), sent.stderr
        assert f"ghostify.load('hf://{NAME}')" in sent.stderr
        told = ghostify_command("report", f"hf://{NAME}", url=hub.url)
        assert told.returncode == 0 and "19 layers replaced" in told.stdout
        missing = ghostify_command("report", "hf://nobody/nothing", url=hub.url)
        assert missing.returncode == 2 and missing.stderr.count("\n") == 1


def test_names_of_the_hub_are_told_from_folders() -> None:
    assert is_hub_name("hf://a/b") and not is_hub_name("a/b") and not is_hub_name(Path("hf://a/b"))
