"""Memory format is part of what is saved: outputs are equal to the last bit."""

from __future__ import annotations

import pytest
import torch
import yaml
from torch import nn

import ghostify
from ghostify.errors import SavedFolderError
from ghostify.nn.memory_format import to_channels_last
from ghostify.numerics.random_state import keep_random_state
from ghostify.saving.layouts import fits, laid_out, usual

MODES = ("c-ghost", "g-ghost", "cg-ghost")
LAST = torch.channels_last


def _strides(model):
    return {name: tensor.stride() for name, tensor in model.state_dict().items()}


def _round_trip(model, folder, original=None, size=32):
    ghostify.save(model, folder)
    loaded = ghostify.load(folder, original)
    assert _strides(loaded) == _strides(model)
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    x = x.to(next(model.parameters()).dtype)
    with torch.no_grad():
        for given in (x, x.contiguous(memory_format=LAST)):
            assert torch.equal(model.eval()(given), loaded.eval()(given))
    return loaded


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("when", ["before", "after", "both", "never"])
@pytest.mark.parametrize("mode", MODES)
def test_channels_last_networks_come_back_as_they_were(tmp_path, mode, when, dtype):
    with keep_random_state(0):
        network = ghostify.build("resnet20-cifar").eval().to(dtype)
        if when in ("before", "both"):
            network.to(memory_format=LAST)
        made = ghostify.convert(network, mode=mode)
    if when in ("after", "both"):
        made.to(memory_format=LAST)
    _round_trip(made, tmp_path / "net")


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_regnet_in_channels_last(tmp_path, when):
    with keep_random_state(0):
        network = ghostify.build("regnet_x_400mf").eval()
        if when == "before":
            network.to(memory_format=LAST)
        made = ghostify.convert(network)
    if when == "after":
        made.to(memory_format=LAST)
    _round_trip(made, tmp_path / "net", size=64)


def test_a_network_that_was_loaded_is_saved_alike(tmp_path):
    with keep_random_state(0):
        made = ghostify.convert(ghostify.build("resnet20-cifar").to(memory_format=LAST))
    loaded = _round_trip(made, tmp_path / "one")
    _round_trip(loaded, tmp_path / "two")


class Odd(nn.Module):
    """A transposed weight, a volume with channels last, and a tied kernel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.again = nn.Conv2d(16, 16, 1, bias=False)
        self.twin = nn.Conv2d(16, 16, 1, bias=False)
        self.twin.weight = self.again.weight
        self.volume = nn.Conv3d(1, 2, 3)
        self.fc = nn.Linear(16, 12)
        self.fc.weight.data = torch.randn(16, 12).T
        self.again.weight.data = self.again.weight.data.contiguous(memory_format=LAST)
        last = torch.channels_last_3d
        self.volume.weight.data = self.volume.weight.data.contiguous(memory_format=last)

    def forward(self, x):
        x = self.twin(self.again(self.conv(x)))
        extra = self.volume(x[:, None, :8]).mean()
        return self.fc(x.mean((2, 3))) + extra


def test_any_strides_are_kept_and_tied_weights_stay_tied(tmp_path):
    with keep_random_state(0):
        network = Odd().eval()
        made = ghostify.convert(network, only=("conv",), input_size=(3, 32, 32))
    loaded = _round_trip(made, tmp_path / "net", network)
    assert loaded.fc.weight.stride() == (1, 12)
    assert loaded.twin.weight is loaded.again.weight


def _edit(folder, change):
    path = folder / "recipe.yaml"
    recipe = yaml.safe_load(path.read_text())
    change(recipe)
    path.write_text(yaml.safe_dump(recipe))


def test_folders_without_strides_still_load(tmp_path):
    with keep_random_state(0):
        made = ghostify.convert(ghostify.build("resnet20-cifar").to(memory_format=LAST))
    ghostify.save(made, tmp_path)
    _edit(tmp_path, lambda recipe: recipe.pop("strides"))
    loaded = ghostify.load(tmp_path)
    for one, other in zip(made.state_dict().values(), loaded.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("strides", [7, [1], {"a": 3}, {"a": ["x"]}, {"a": [True]}, {3: [1]}])
def test_other_things_in_their_place_are_refused(tmp_path, strides):
    ghostify.save(ghostify.convert("resnet20-cifar"), tmp_path)
    _edit(tmp_path, lambda recipe: recipe.update(strides=strides))
    with pytest.raises(SavedFolderError, match="strides"):
        ghostify.load(tmp_path)


@pytest.mark.parametrize("strides", [[0, 0, 0, 0], [1], [10**12] * 4, [-1, 1, 1, 1], [27, 9, 3, 2]])
def test_strides_that_a_tensor_can_t_have_take_no_memory(tmp_path, strides):
    with keep_random_state(0):
        made = ghostify.convert("resnet20-cifar")
    ghostify.save(made, tmp_path)
    name = next(iter(made.state_dict()))
    _edit(tmp_path, lambda recipe: recipe.update(strides={name: strides}))
    assert torch.equal(ghostify.load(tmp_path).state_dict()[name], made.state_dict()[name])


def test_strides_fit_where_nothing_overlaps_and_there_are_no_gaps():
    assert fits((2, 3, 1), (3, 1, 77)) and fits((0, 3), (3, 1)) and fits((), ())
    assert not fits((2, 3), (3, 2)) and not fits((2, 3), (1, 1)) and not fits((2,), (1, 1))
    kernel = torch.rand(4, 3, 2, 2, generator=torch.Generator())
    assert usual(kernel.shape, channels_last=True) == kernel.contiguous(memory_format=LAST).stride()
    assert torch.equal(laid_out(kernel, (1, 4, 12, 24)), kernel)


class Volumes(nn.Module):
    """Kernels of four dimensions beside some of five."""

    def __init__(self):
        super().__init__()
        self.flat, self.deep = nn.Conv2d(3, 8, 3), nn.Conv3d(1, 2, 3)

    def forward(self, x):
        return self.deep(self.flat(x).unsqueeze(1))


def test_a_network_of_images_and_volumes_comes_back_with_its_channels_last(tmp_path):
    original = Volumes()
    to_channels_last(original)
    converted = ghostify.convert(original, s=2, input_size=(3, 16, 16))
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"), Volumes())
    x = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded(x), converted(x))
