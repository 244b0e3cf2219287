"""Saved folders: bit for bit, whole or not at all, and no code run from them."""

from __future__ import annotations

import copy
import json
import pickle
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

import ghostify
from ghostify import saving
from ghostify.errors import GhostifyError, SavedFolderError
from ghostify.saving import folder as folder_module
from tests.passes.blocks import KINDS, Net

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def outputs(model, images=IMAGES):
    with torch.no_grad():
        return model.eval()(images)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def converted(small_net):
    return ghostify.convert(small_net, s=2, input_size=(3, 32, 32))


@pytest.fixture
def folder(converted, tmp_path) -> Path:
    return ghostify.save(converted, tmp_path / "out")


@pytest.fixture(scope="module")
def resnet():
    """A converted ResNet-20, built by name, with weights and statistics that are no defaults."""
    torch.manual_seed(5)
    model = ghostify.convert("resnet20-cifar", s=2)
    model.train()(torch.rand(8, 3, 32, 32))
    return model.eval()


# What comes back


def test_a_trained_network_comes_back_bit_for_bit(trained_resnet20, cifar_test, tmp_path):
    converted = ghostify.convert(trained_resnet20, s=2, d=5, keep="stem")
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"))
    assert type(loaded) is type(converted)
    images = cifar_test[0][::10]
    assert torch.equal(outputs(loaded, images), outputs(converted, images))


def test_weights_trained_since_the_conversion_come_back(small_net, tmp_path):
    converted = ghostify.convert(small_net, s=2).train()
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        converted(IMAGES).square().sum().backward()
        optimizer.step()
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"), model=small_net)
    assert all(
        torch.equal(value, loaded.state_dict()[key])
        for key, value in converted.state_dict().items()
    )
    assert torch.equal(outputs(loaded), outputs(converted))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_comes_back(resnet, tmp_path, dtype):
    model = copy.deepcopy(resnet).to(dtype)
    loaded = ghostify.load(ghostify.save(model, tmp_path / "out"))
    assert {p.dtype for p in loaded.parameters()} == {dtype}
    assert torch.equal(outputs(loaded, IMAGES.to(dtype)), outputs(model, IMAGES.to(dtype)))


def test_several_dtypes_come_back(resnet, tmp_path):
    model = copy.deepcopy(resnet).half()
    model.linear.float()
    loaded = ghostify.load(ghostify.save(model, tmp_path / "out"))
    assert (loaded.conv1.primary.weight.dtype, loaded.linear.weight.dtype) == (
        torch.float16,
        torch.float32,
    )


def test_the_memory_format_comes_back(resnet, tmp_path):
    model = copy.deepcopy(resnet).to(memory_format=torch.channels_last)
    loaded = ghostify.load(ghostify.save(model, tmp_path / "out"))
    kernel = loaded.layer1[0].conv1.primary.weight
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(outputs(loaded), outputs(model))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_comes_back(converted, small_net, tmp_path, training):
    converted.train(training)
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"), model=small_net)
    assert {m.training for m in loaded.modules()} == {training}


def test_a_norm_frozen_in_eval_mode_comes_back_frozen(converted, small_net, tmp_path):
    converted.train()
    converted.norm.eval()
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"), model=small_net)
    assert loaded.training and not loaded.norm.training and loaded.body.training
    assert torch.equal(loaded(IMAGES), converted(IMAGES))


class Tied(nn.Module):
    """Two names for one module, one parameter in two modules, buffers of both kinds."""

    def __init__(self):
        super().__init__()
        self.first = self.again = nn.Conv2d(3, 16, 3, padding=1)
        self.one, self.other = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.other.weight = self.one.weight
        self.register_buffer("scale", torch.ones(16, 1, 1))
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("constant", torch.arange(3.0), persistent=False)

    def forward(self, x):
        return self.other(self.one(self.first(x))) * self.scale + self.constant.sum()


def test_ties_and_buffers_come_back(tmp_path):
    torch.manual_seed(0)
    original = Tied()
    converted = ghostify.convert(original, s=2, input_size=(3, 32, 32))
    converted.scale.normal_()
    converted.steps += 7
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"), model=original)
    assert loaded.first is loaded.again and type(loaded.first).__name__ == "GhostConv2d"
    assert loaded.other.weight is loaded.one.weight
    assert loaded.steps == 7 and original.steps == 0
    assert torch.equal(outputs(loaded), outputs(converted))


@pytest.mark.parametrize(
    "options",
    [
        {"linear": True},
        {"s": {"layer1": 4, "*": 2}, "d": {"layer3": 5}},
        {"only": lambda name, module: "layer2" in name},
        {"bias_mode": "primary", "init": "random", "seed": 3},
    ],
)
def test_all_settings_come_back(tmp_path, options):
    converted = ghostify.convert("resnet20-cifar", **options)
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"))
    assert torch.equal(outputs(loaded), outputs(converted))
    assert str(loaded) == str(converted)


def test_a_network_converted_twice_comes_back(resnet, tmp_path):
    once = ghostify.convert("resnet20-cifar", only="layer1")
    twice = ghostify.convert(once, s=4, only="layer2")
    loaded = ghostify.load(ghostify.save(twice, tmp_path / "out"))
    assert (loaded.layer1[0].conv1.s, loaded.layer2[0].conv1.s) == (2, 4)
    assert torch.equal(outputs(loaded), outputs(twice))


def test_layers_whose_stage_was_rebuilt_afterwards_come_back(tmp_path):
    original = Net(KINDS["Basic"], channels=16, blocks=3)
    once = ghostify.convert(original, only="stage.0.conv1", input_size=(3, 32, 32))
    twice = ghostify.convert(once, mode="g-ghost", input_size=(3, 32, 32))
    loaded = ghostify.load(ghostify.save(twice, tmp_path / "out"), original)
    assert torch.equal(outputs(loaded), outputs(twice))
    report = ghostify.report(loaded)
    assert [stage.name for stage in report.rebuilt] == ["stage"] and not report.replaced


def test_a_network_that_was_not_converted_comes_back(small_net, tmp_path):
    loaded = ghostify.load(
        ghostify.save(small_net, tmp_path / "out"), model=copy.deepcopy(small_net)
    )
    assert torch.equal(outputs(loaded), outputs(small_net))


def test_a_loaded_network_can_be_saved_and_loaded_again(resnet, tmp_path):
    first = ghostify.load(ghostify.save(resnet, tmp_path / "one"))
    second = ghostify.load(ghostify.save(first, tmp_path / "two"))
    assert torch.equal(outputs(second), outputs(resnet))
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_the_original_that_is_given_is_not_changed(folder, small_net):
    before = copy.deepcopy(small_net.state_dict())
    loaded = ghostify.load(folder, model=small_net)
    assert type(small_net.stem) is nn.Conv2d
    assert all(torch.equal(small_net.state_dict()[key], before[key]) for key in before)
    shared = {p.data_ptr() for p in loaded.parameters()} & {
        p.data_ptr() for p in small_net.parameters()
    }
    assert not shared


# What it is for: the report


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"input_size": (3, 48, 40)},
        {"example_inputs": torch.zeros(8, 3, 32, 32)},
    ],
)
def test_the_report_is_for_the_inputs_of_the_save(small_net, tmp_path, given):
    converted = ghostify.convert(small_net, s=2, **given)
    saved = ghostify.report(converted)
    loaded = ghostify.report(ghostify.load(ghostify.save(converted, tmp_path / "out"), small_net))
    assert (loaded.inputs, loaded.rows) == (saved.inputs, saved.rows)
    assert (loaded.before, loaded.after) == (saved.before, saved.after)


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 16, 3), nn.Conv2d(1, 16, 3)

    def forward(self, x, y):
        return self.a(x) + self.b(y)


def test_the_report_of_a_network_with_two_inputs_comes_back(tmp_path):
    inputs = (torch.zeros(2, 3, 20, 20), torch.zeros(2, 1, 20, 20))
    converted = ghostify.convert(Pair(), s=2, example_inputs=inputs)
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"), model=Pair())
    assert ghostify.report(loaded) == ghostify.report(converted)


def test_the_report_may_be_for_another_image(folder, small_net):
    report = ghostify.report(ghostify.load(folder, small_net, input_size=(3, 64, 64)))
    assert report.inputs == "1x3x64x64" and report.mode == "c-ghost"
    with pytest.raises(GhostifyError, match="1x7x64x64"):
        ghostify.load(folder, small_net, input_size=(7, 64, 64))


# What the folder says


def test_the_recipe_says_how_the_network_was_made(resnet, tmp_path):
    folder = ghostify.save(resnet, tmp_path / "out")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    assert recipe["format"] == "ghostify.recipe/1"
    assert recipe["source"] == {"name": "resnet20-cifar", "model_args": {}}
    assert recipe["versions"] == {"ghostify": ghostify.__version__, "torch": torch.__version__}
    (conversion,) = recipe["conversions"]
    assert conversion["settings"]["mode"] == "c-ghost"
    assert conversion == json.loads(json.dumps(ghostify.plan("resnet20-cifar").to_dict()))
    assert recipe["inputs"] == "1x3x32x32"


def test_the_weights_are_safetensors_with_the_networks_own_keys(resnet, tmp_path):
    folder = ghostify.save(resnet, tmp_path / "out")
    (weights,) = folder.glob("*.safetensors")
    state = load_file(weights)
    assert state.keys() == resnet.state_dict().keys()
    assert torch.equal(state["conv1.primary.weight"], resnet.conv1.primary.weight)


def test_others_may_read_both_files_as_they_may_any_new_file(folder, tmp_path):
    (tmp_path / "plain").touch()
    usual = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {usual}


# Where the original comes from


def test_a_network_without_a_name_needs_its_original(folder, small_net):
    with pytest.raises(SavedFolderError, match=r"does not say what builds .*model=original"):
        ghostify.load(folder)


FACTORY = """
import pathlib
from torch import nn
pathlib.Path(__file__).with_name("ran").touch()
def build(width=16):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3))
"""


@pytest.mark.parametrize("name", ["my_nets.py:build", "my_nets_module:build"])
def test_a_users_factory_runs_when_trusted_alone(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("my_nets.py").write_text(FACTORY)
    Path("my_nets_module.py").write_text(FACTORY)
    monkeypatch.delitem(sys.modules, "my_nets_module", raising=False)
    model = ghostify.convert(ghostify.build(name, {"width": 24}), s=2)
    folder = ghostify.save(model, tmp_path / "out")
    monkeypatch.delitem(sys.modules, "my_nets_module", raising=False)
    Path("ran").unlink()
    with pytest.raises(SavedFolderError, match=f"{name}.*trust=True.*model=original"):
        ghostify.load(folder)
    assert not Path("ran").exists()
    loaded = ghostify.load(folder, trust=True)
    assert Path("ran").exists() and loaded[0].out_channels == 24
    assert torch.equal(outputs(loaded), outputs(model))


def test_a_source_can_be_named_at_the_save(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ghostify.convert(nn.Sequential(nn.Conv2d(3, 16, 3)), s=2)
    ghostify.save(model, "out", source="resnet20-cifar")
    assert saving.read(Path("out")).history.source.name == "resnet20-cifar"
    with pytest.raises(
        SavedFolderError, match=r"out doesn't fit this network\. The plan names '0'"
    ):
        ghostify.load("out")


def test_a_factory_that_moved_is_told_with_the_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("my_nets.py").write_text(FACTORY)
    ghostify.save(ghostify.convert("my_nets.py:build", s=2), "out")
    Path("my_nets.py").unlink()
    with pytest.raises(SavedFolderError, match=r"original network of out can't be built.*my_nets"):
        ghostify.load("out", trust=True)


@pytest.mark.parametrize("other", ["narrower", "vgg16-cifar", "resnet32-cifar"])
def test_another_original_is_refused(resnet, tmp_path, other):
    folder = ghostify.save(resnet, tmp_path / "out")
    args = ("resnet20-cifar", {"num_classes": 7}) if other == "narrower" else (other,)
    with pytest.raises(SavedFolderError, match="doesn't fit this network"):
        ghostify.load(folder, model=ghostify.build(*args))


def test_an_original_without_data_is_refused(folder, make_small_net):
    with torch.device("meta"):
        meta = make_small_net()
    with pytest.raises(SavedFolderError, match="meta device"):
        ghostify.load(folder, model=meta)


# What can't be saved


class Counter(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)

    def forward(self, x):
        return self.conv(x)

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        pass


def test_what_is_no_tensor_cannot_be_saved(tmp_path):
    with pytest.raises(SavedFolderError, match="'_extra_state' of this network is no tensor"):
        ghostify.save(ghostify.convert(Counter(), s=2), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_arguments_that_are_no_data_cannot_be_saved(converted, tmp_path):
    from ghostify.saving.history import Source

    source = Source("my:net", {"norm": nn.BatchNorm2d})
    with pytest.raises(SavedFolderError, match=r"model_args of plain numbers, texts, lists"):
        ghostify.save(converted, tmp_path / "deep" / "out", source=source)
    assert names(tmp_path) == set()


def test_a_wrapper_is_refused_with_the_name_of_what_was_converted(converted, tmp_path):
    with pytest.raises(SavedFolderError, match=r"its 'module': save that"):
        ghostify.save(nn.DataParallel(converted), tmp_path / "out")


def test_ghost_modules_that_nobody_recorded_are_refused(converted, tmp_path):
    by_hand = nn.Sequential(ghostify.GhostConv2d(3, 16, 3))
    with pytest.raises(SavedFolderError, match="nothing says how it was made"):
        ghostify.save(by_hand, tmp_path / "out")


# Whole or not at all


def test_a_second_save_takes_the_place_of_the_first(folder, converted, small_net):
    first = names(folder)
    with torch.no_grad():
        converted.stem.primary.weight.add_(1)
    ghostify.save(converted, folder)
    assert len(names(folder)) == 3 and names(folder) != first
    assert torch.equal(outputs(ghostify.load(folder, small_net)), outputs(converted))


def test_saving_the_same_again_changes_nothing(folder, converted):
    before = contents(folder)
    ghostify.save(converted, folder)
    assert contents(folder) == before


def at_each_step():
    """The calls of a save that may fail, and what they are."""
    return [("replace", 0), ("replace", 1), ("write_text", 0), ("touch", 0), ("save_file", 0)]


@pytest.mark.parametrize(("call", "after"), at_each_step())
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("is_new", [True, False])
def test_a_save_that_fails_leaves_what_was_there(
    converted, small_net, tmp_path, monkeypatch, call, after, error, is_new
):
    out = tmp_path / "deep" / "out"
    if not is_new:
        ghostify.save(converted, out)
    before = contents(out) if not is_new else None
    with torch.no_grad():
        converted.stem.primary.weight.add_(1)
    owner = folder_module if call == "save_file" else Path
    real, calls = getattr(owner, call), iter(range(9))

    def failing(*args, **options):
        if next(calls) == after:
            raise error
        return real(*args, **options)

    monkeypatch.setattr(owner, call, failing)
    with pytest.raises((SavedFolderError, KeyboardInterrupt)) as caught:
        ghostify.save(converted, out)
    monkeypatch.undo()
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    if is_new:
        assert names(tmp_path) == set()
    else:
        assert contents(out) == before


def test_a_disk_that_is_full_leaves_what_was_there(folder, small_net):
    before = contents(folder)
    big = ghostify.convert(nn.Sequential(nn.Conv2d(64, 512, 3), nn.Conv2d(512, 64, 3)), s=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        # No file may grow beyond 100 kB: what a full disk does, done by the system itself.
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
        with pytest.raises(SavedFolderError, match=r"can't be written \(.*[Ff]ile too large"):
            ghostify.save(big, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert contents(folder) == before


SAVE_FOR_EVER = """
import sys, torch, ghostify
from torch import nn
torch.manual_seed(0)
model = ghostify.convert(nn.Sequential(nn.Conv2d(64, 256, 3), nn.Conv2d(256, 64, 3)), s=2)
print("ready", flush=True)
while True:
    ghostify.save(model, sys.argv[1])
    with torch.no_grad():
        model[0].primary.weight.add_(1)
"""


def test_a_save_that_is_killed_leaves_a_whole_network(tmp_path):
    original = nn.Sequential(nn.Conv2d(64, 256, 3), nn.Conv2d(256, 64, 3))
    out = tmp_path / "out"
    command = [sys.executable, "-c", SAVE_FOR_EVER, str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            process.stdout.readline()
            while not saving.is_saved(out):
                time.sleep(0.01)
            for _ in range(20):  # the folder is whole at every moment, also while it is written
                try:
                    ghostify.load(out, original)
                except SavedFolderError as error:
                    # Reading the recipe and then the weights is no single step: the next save may
                    # have taken the weights away in between.
                    assert "can't be read" in str(error)
        finally:
            process.kill()
    assert process.returncode == -signal.SIGKILL
    ghostify.load(out, original)
    model = ghostify.convert(original, s=2)
    ghostify.save(model, out)
    assert torch.equal(ghostify.load(out, original)[0].primary.weight, model[0].primary.weight)


def test_what_a_killed_save_leaves_does_not_keep_the_next_one_away(converted, small_net, tmp_path):
    (tmp_path / ".0123456789abcdef0123456789abcdef.tmp").write_bytes(b"half")
    (tmp_path / "model-01234567.safetensors").write_bytes(b"whole, but no recipe names it")
    with pytest.raises(SavedFolderError, match=r"recipe\.yaml"):
        ghostify.load(tmp_path, small_net)
    ghostify.save(converted, tmp_path)
    assert torch.equal(outputs(ghostify.load(tmp_path, small_net)), outputs(converted))


@pytest.mark.parametrize("thing", ["notes.txt", "model.safetensors", ".git"])
def test_a_folder_with_other_things_is_refused(converted, tmp_path, thing):
    (tmp_path / thing).write_text("mine")
    with pytest.raises(SavedFolderError, match="holds other things"):
        ghostify.save(converted, tmp_path)
    assert names(tmp_path) == {thing}


@pytest.mark.parametrize("place", ["file", "file/out", "/proc/out", "/dev/null/out"])
def test_a_place_that_takes_no_folder_is_refused(converted, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SavedFolderError, match=re.escape(Path(place).name)):
        ghostify.save(converted, tmp_path / place)
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "mine"


# Damage


def damaged(folder: Path, old: str, new: str) -> Path:
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    assert old in text, text
    recipe.write_text(text.replace(old, new))
    return folder


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("ghostify.recipe/1", "ghostify.recipe/2", "has the format 'ghostify.recipe/2'"),
        ("training: true", "training: maybe", "damaged .*training is 'maybe'"),
        ("channels_last: false", "channels_last: 1", "damaged .*channels_last"),
        ("dtype: null", "dtype: load", "damaged .*'load' is no dtype"),
        ("dtype: null", "dtype: [1]", "damaged"),
        ("file: model-", "file: ../model-", "damaged .*not inside the folder"),
        ("file: model-", "file: /tmp/model-", "damaged .*not inside the folder"),
        ("sha256: ", "sha512: ", "damaged .*sha256"),
        ("source: null", "source: {name: 5, model_args: {}}", "damaged"),
        ("source: null", "source: 5", "damaged"),
        ("inputs: 1x3x32x32", "inputs: 1xAx32", "damaged"),
        ("mode: c-ghost", "mode: z-ghost", "another ghostify.*'z-ghost' is no mode"),
        ("kernel_size: [3, 3]", "kernel_size: 3", "damaged.*no plan"),
        ("  replaced:", "  replicated:", "damaged"),
        ("conversions:", "conversion:", "damaged"),
        ("out_channels: 16", "out_channels: 17", "doesn't fit this network"),
        ("name: stem", "name: stern", "doesn't fit this network.*'stern'"),
    ],
)
def test_a_damaged_recipe_is_refused_with_what_is_wrong(folder, small_net, old, new, words):
    with pytest.raises(SavedFolderError, match=f"(?s){words}"):
        ghostify.load(damaged(folder, old, new), small_net)


@pytest.mark.parametrize("content", [b"", b"5", b"- a\n", b"{", b"a: b: c"])
def test_a_recipe_that_is_none_is_refused(folder, small_net, content):
    (folder / "recipe.yaml").write_bytes(content)
    with pytest.raises(
        SavedFolderError, match=r"recipe\.yaml is damaged .*: save the network again"
    ):
        ghostify.load(folder, small_net)


def test_a_recipe_that_is_no_text_is_refused(folder, small_net):
    (folder / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SavedFolderError, match=r"read \(it is no text\): save the network again"):
        ghostify.load(folder, small_net)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9])
def test_a_recipe_that_is_cut_off_is_refused(folder, small_net, part):
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    recipe.write_text(text[: int(part * len(text))])
    with pytest.raises(SavedFolderError):
        ghostify.load(folder, small_net)


def test_weights_that_are_cut_off_changed_or_gone_are_refused(folder, small_net):
    (weights,) = folder.glob("*.safetensors")
    whole = weights.read_bytes()
    flipped = bytearray(whole)
    flipped[-3] ^= 1
    for content, words in (
        (whole[:-8], "can't be read"),
        (flipped, "not what was saved"),
        (b"", "read"),
    ):
        weights.write_bytes(content)
        with pytest.raises(SavedFolderError, match=words):
            ghostify.load(folder, small_net)
    weights.unlink()
    with pytest.raises(SavedFolderError, match="No such file"):
        ghostify.load(folder, small_net)


def test_weights_of_another_network_under_the_same_name_are_refused(folder, small_net):
    (weights,) = folder.glob("*.safetensors")
    save_file({key: value + 1 for key, value in load_file(weights).items()}, weights)
    with pytest.raises(SavedFolderError, match="its checksum is another"):
        ghostify.load(folder, small_net)


@pytest.mark.parametrize("place", ["nowhere", "empty", "file"])
def test_what_is_no_saved_folder_is_refused(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SavedFolderError, match=f"{place} is no saved network .*recipe"):
        ghostify.load(tmp_path / place)


# No code


def test_loading_unpickles_nothing(resnet, tmp_path, monkeypatch):
    folder = ghostify.save(resnet, tmp_path / "out")

    def forbidden(*args, **options):
        raise AssertionError("something was unpickled")

    for owner, name in (
        (pickle, "load"),
        (pickle, "loads"),
        (pickle, "Unpickler"),
        (torch, "load"),
    ):
        monkeypatch.setattr(owner, name, forbidden)
    assert torch.equal(outputs(ghostify.load(folder)), outputs(resnet))


def test_a_recipe_runs_no_code(folder, small_net, tmp_path):
    mark = tmp_path / "ran"
    evil = f"training: !!python/object/apply:os.system ['touch {mark}']"
    with pytest.raises(SavedFolderError, match="damaged"):
        ghostify.load(damaged(folder, "training: true", evil), small_net)
    assert not mark.exists()


def test_a_name_that_was_slipped_in_is_not_imported(resnet, tmp_path):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    folder = ghostify.save(resnet, tmp_path / "out")
    damaged(folder, "name: resnet20-cifar", f"name: {tmp_path / 'evil.py'}:build")
    with pytest.raises(SavedFolderError, match="trust=True"):
        ghostify.load(folder)
    assert not (tmp_path / "ran").exists()


def test_settings_with_a_predicate_are_saved_as_names(small_net, tmp_path):
    converted = ghostify.convert(small_net, only=lambda name, module: name == "last")
    plan = saving.read(ghostify.save(converted, tmp_path / "out")).history.plans[0]
    assert plan.settings.only == ("last",)
