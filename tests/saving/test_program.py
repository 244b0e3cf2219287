"""Saved programs: a network whose original nothing builds runs on any machine."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import ghostify
from ghostify.errors import GhostifyError, ModelError, SavedFolderError


class Pair(nn.Module):
    """Two inputs, two outputs, and a class that no other process can import."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.right = nn.Conv2d(1, 16, 3, padding=1)

    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> dict[str, torch.Tensor]:
        left, right = self.left(image), self.right(depth)
        return {"sum": left + right, "product": (left * right).mean((2, 3))}


EXAMPLE = (torch.rand(2, 3, 16, 16), torch.rand(2, 1, 16, 16))


@pytest.fixture(scope="module")
def pair() -> nn.Module:
    torch.manual_seed(0)
    return ghostify.convert(Pair(), s=2, example_inputs=EXAMPLE).eval()


@pytest.fixture(scope="module")
def saved(pair: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ghostify.save(pair, tmp_path_factory.mktemp("program") / "out", program=True)


def test_it_runs_in_a_process_that_cannot_build_the_network(saved: Path, pair, tmp_path) -> None:
    inputs = (torch.rand(5, 3, 16, 16), torch.rand(5, 1, 16, 16))  # another number of images
    torch.save(inputs, tmp_path / "inputs.pt")
    code = (
        "import sys, torch, ghostify\n"
        "network = ghostify.load(sys.argv[1], trust=True).eval()\n"
        "torch.save(network(*torch.load(sys.argv[2])), sys.argv[3])\n"
    )
    places = [str(saved), str(tmp_path / "inputs.pt"), str(tmp_path / "outputs.pt")]
    subprocess.run([sys.executable, "-c", code, *places], check=True, cwd=tmp_path)
    with torch.no_grad():
        expected = pair(*inputs)
    found = torch.load(tmp_path / "outputs.pt")
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)


def test_it_is_not_opened_without_trust(saved: Path) -> None:
    with pytest.raises(SavedFolderError, match=r"trust=True .* to run the program in it"):
        ghostify.load(saved)


def test_with_its_original_the_network_itself_is_loaded(saved: Path, pair) -> None:
    loaded = ghostify.load(saved, model=Pair(), trust=True)
    assert type(loaded) is Pair
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in pair.state_dict().items())


def test_one_that_a_name_builds_is_built(tmp_path: Path) -> None:
    network = ghostify.convert("resnet20-cifar", s=2)
    folder = ghostify.save(network, tmp_path / "out", program=True)
    assert type(ghostify.load(folder, trust=True)) is type(network)


def test_a_factory_that_is_not_there_leaves_the_program(pair, tmp_path: Path) -> None:
    folder = ghostify.save(pair, tmp_path / "out", source="gone.nets:build", program=True)
    assert len(ghostify.load(folder, trust=True)(*EXAMPLE)) == 2
    with pytest.raises(SavedFolderError, match="names code"):
        ghostify.load(folder)


def test_it_stays_in_eval_mode_and_says_that_it_cannot_be_trained(saved: Path) -> None:
    loaded = ghostify.load(saved, trust=True)
    assert not loaded.training and not copy.deepcopy(loaded).training
    with pytest.raises(ModelError, match="can't be trained"):
        loaded.train()


def test_it_can_be_measured_and_exported(saved: Path, tmp_path: Path) -> None:
    loaded = ghostify.load(saved, trust=True)
    assert ghostify.report(loaded, example_inputs=EXAMPLE).after.macs > 0
    made = ghostify.export(loaded, tmp_path / "again.pt2", example_inputs=EXAMPLE)
    assert made.difference < 1e-5


def test_it_cannot_be_saved_as_a_network(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(SavedFolderError, match="copy the folder"):
        ghostify.save(ghostify.load(saved, trust=True), tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_program_that_was_changed_is_refused(pair, tmp_path: Path) -> None:
    folder = ghostify.save(pair, tmp_path / "out", program=True)
    (program,) = folder.glob("program-*.pt2")
    program.write_bytes(program.read_bytes()[:-9] + b"otherwise")
    with pytest.raises(SavedFolderError, match="not what was saved"):
        ghostify.load(folder, trust=True)


def test_one_of_another_pytorch_is_refused_in_a_sentence(pair, tmp_path: Path) -> None:
    folder = ghostify.save(pair, tmp_path / "out", program=True)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (weights,) = folder.glob("*.safetensors")  # whole, and no program
    (folder / "program-0.pt2").write_bytes(weights.read_bytes())
    recipe["program"] = {"file": "program-0.pt2", "sha256": recipe["weights"]["sha256"]}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SavedFolderError, match=r"can't be read by PyTorch .* use the one that"):
        ghostify.load(folder, trust=True)


def test_a_later_save_without_one_removes_it(pair, tmp_path: Path) -> None:
    folder = ghostify.save(pair, tmp_path / "out", program=True)
    assert len([*folder.glob("program-*.pt2")]) == 1
    ghostify.save(pair, folder)
    assert not [*folder.glob("program-*.pt2")]


def test_a_network_that_takes_one_number_of_images_alone_has_a_program_for_it(tmp_path) -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.conv(x).reshape(1, -1)

    network = ghostify.convert(Fixed(), s=2, input_size=(3, 16, 16))
    folder = ghostify.save(network, tmp_path / "out", program=True)
    x = torch.rand(1, 3, 16, 16)
    torch.testing.assert_close(ghostify.load(folder, trust=True)(x), network.eval()(x))


def test_what_cannot_be_exported_leaves_nothing(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 16, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return x if float(x.sum()) > 0 else -x

    network = ghostify.convert(Odd(), s=2, example_inputs=torch.rand(1, 3, 16, 16))
    with pytest.raises(GhostifyError, match="can't be saved as a program"):
        ghostify.save(network, tmp_path / "out", program=True)
    assert not (tmp_path / "out").exists()


def test_the_card_says_how_to_load_it(saved: Path) -> None:
    card = (saved / "README.md").read_text()
    assert "trust=True)  # runs program-" in card and "a program of `torch.export`" in card
