"""Recipes that were changed by hand or worse: a sentence, or the network that they state."""

from __future__ import annotations

import copy
import hashlib
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import ghostify
from ghostify.errors import GhostifyError, SavedFolderError

NASTY = (None, -5, 0, 10**9, 10**40, 0.5, float("nan"), "", "a\0b", "../x", "x" * 300, [], [[]], {})


@pytest.fixture(scope="module")
def original():
    blocks = [nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()) for _ in range(4)]
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.Sequential(*blocks), nn.Conv2d(16, 16, 3)).eval()


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    converted = ghostify.convert(original, mode="cg-ghost", input_size=(3, 16, 16))
    out = ghostify.save(converted, tmp_path_factory.mktemp("recipe") / "out")
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    assert all(recipe["conversions"][0][key] for key in ("replaced", "stages"))
    return out


def places(value, path=()):
    """The path to each value inside nested data."""
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(recipe, path, value):
    recipe = copy.deepcopy(recipe)
    *way, last = path
    inner = recipe
    for key in way:
        inner = inner[key]
    inner[last] = value
    return recipe


def test_each_value_of_a_recipe_may_be_anything(folder, original, tmp_path):
    whole = ghostify.load(folder, original).state_dict()
    work = shutil.copytree(folder, tmp_path / "work")
    recipe = yaml.safe_load((work / "recipe.yaml").read_text())
    refused = 0
    for index, path in enumerate(places(recipe)):
        for turn in range(2):  # two of the nasty values for each place, others for the next
            value = NASTY[(2 * index + turn) % len(NASTY)]
            (work / "recipe.yaml").write_text(yaml.safe_dump(changed(recipe, path, value)))
            try:
                loaded = ghostify.load(work, original).state_dict()
            except GhostifyError as error:
                refused += 1
                assert "\n" not in str(error) and len(str(error)) < 700, (path, value)
            else:
                assert loaded.keys() == whole.keys(), (path, value)
                assert all(torch.equal(loaded[key], whole[key]) for key in whole), (path, value)
    assert refused > 100


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("dtype", "int8", "'int8' is no dtype of floating"),
        ("inputs", "1x3x-5x32", "inputs is '1x3x-5x32'"),
        ("inputs", "9999999999x9999999999", "more than"),
        ("inputs", "1x3x" + "9" * 5000, "inputs is"),
        ("exceptions", ["nowhere"], "the mode of 'nowhere'"),
        ("weights", {"file": "a\0.safetensors", "sha256": 64 * "0"}, "not inside the folder"),
        ("weights", {"file": "..", "sha256": 64 * "0"}, "weights file"),
        ("weights", {"file": "recipe.yaml", "sha256": 64 * "0"}, "no name of a .safetensors"),
        ("conversions", [[]] * 101, "at most 100"),
    ],
)
def test_a_value_is_refused_by_name(folder, original, tmp_path, key, value, words):
    work = shutil.copytree(folder, tmp_path / "work")
    recipe = yaml.safe_load((work / "recipe.yaml").read_text())
    (work / "recipe.yaml").write_text(json.dumps(changed(recipe, (key,), value)))
    with pytest.raises(SavedFolderError, match=words):
        ghostify.load(work, original)


@pytest.mark.parametrize(
    ("part", "key", "value", "words"),
    [
        ("stages", "complicated", -5, "complicated=-5"),
        ("stages", "blocks", [["1.0"], []], "blocks="),
        ("stages", "in_shape", [1, 16], "in_shape"),
        ("stages", "ratio", 1.5, "ratio=1.5"),
        ("replaced", "d", 1000001, "d=1000001"),
        ("replaced", "s", 10**9, "s=1000000000"),
        ("replaced", "name", 5, "name is 5"),
    ],
)
def test_a_row_is_refused_when_the_plan_is_made(folder, part, key, value, words):
    plan = yaml.safe_load((folder / "recipe.yaml").read_text())["conversions"][0]
    with pytest.raises(GhostifyError, match=words):
        ghostify.Plan.from_dict(changed(plan, (part, 0, key), value))


def test_rows_follow_from_the_mode_and_name_a_layer_once(folder):
    plan = yaml.safe_load((folder / "recipe.yaml").read_text())["conversions"][0]
    with pytest.raises(GhostifyError, match="rebuilds stages, which c-ghost does not"):
        ghostify.Plan.from_dict({**plan, "settings": {"mode": "c-ghost"}})
    with pytest.raises(GhostifyError, match="is replaced twice"):
        ghostify.Plan.from_dict({**plan, "replaced": plan["replaced"] * 2})


def test_weights_of_whole_numbers_are_refused(folder, original, tmp_path):
    work = shutil.copytree(folder, tmp_path / "work")
    (file,) = work.glob("*.safetensors")
    save_file({key: value.to(torch.int32) for key, value in load_file(file).items()}, file)
    recipe = yaml.safe_load((work / "recipe.yaml").read_text())
    recipe["weights"]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(SavedFolderError, match="shape or kind"):
        ghostify.load(work, original)
