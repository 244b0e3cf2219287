"""Numbers that are none are refused where they enter, and never come out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ghostify
from ghostify.analysis import analyze
from ghostify.errors import GhostifyError
from ghostify.numerics.finite import non_finite
from ghostify.numerics.random_state import keep_random_state
from ghostify.saving.history import history_of

MODES = ("c-ghost", "g-ghost", "cg-ghost")
NAN, INF = float("nan"), float("inf")


class Items(torch.utils.data.Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], index % 10


@pytest.fixture(scope="module")
def network():
    with keep_random_state(0):
        return ghostify.build("resnet20-cifar").eval()


def images(value=None, channels=3):
    made = torch.rand(8, channels, 32, 32, generator=torch.Generator().manual_seed(0))
    if value is not None:
        made[5, 1, 2, 3] = value
    return made


def sources(value):
    bad = images(value)
    loader = torch.utils.data.DataLoader(Items(bad), 4)
    return {"tensor": bad, "data set": Items(bad), "loader": loader}


@pytest.mark.parametrize("kind", ["tensor", "data set", "loader"])
@pytest.mark.parametrize("value", [NAN, INF, -INF, 1e38])
def test_calibration_images_are_refused_by_number(network, kind, value):
    with pytest.raises(GhostifyError, match=r"(Image|Item) 5 of the calibration .* must be finite"):
        ghostify.convert(network, calibration=sources(value)[kind])


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bad", [images(channels=5), images(NAN), images()[:, 0]])
def test_every_mode_refuses_them(network, mode, bad):
    with pytest.raises(GhostifyError, match=r"5x32x32|must be finite|images of 32x32 "):
        ghostify.convert(network, mode=mode, calibration=bad)


@pytest.mark.parametrize("mode", ["c-ghost", "g-ghost"])
@pytest.mark.parametrize("bad", [images(channels=5), images(INF)])
def test_choosing_by_a_target_refuses_them(network, mode, bad):
    with pytest.raises(GhostifyError, match=r"5x32x32|must be finite"):
        ghostify.convert(network, mode=mode, calibration=bad, target_macs=0.6)


def test_images_of_several_shapes_are_refused(network):
    mixed = [torch.rand(3, 32, 32, generator=torch.Generator()), torch.zeros(3, 16, 16)]
    with pytest.raises(GhostifyError, match="give images of one shape"):
        ghostify.convert(network, calibration=mixed)


def test_an_analysis_refuses_them(network):
    with pytest.raises(GhostifyError, match="image 5 holds nan"):
        analyze(network, images(NAN))
    with pytest.raises(GhostifyError, match="5x32x32"):
        analyze(network, images(channels=5))


@pytest.mark.parametrize("kind", ["tensor", "data set", "loader"])
def test_training_and_evaluation_refuse_them(network, kind):
    pytest.importorskip("lightning_fabric")
    data = sources(NAN)[kind]
    data = (data, torch.arange(8)) if kind == "tensor" else data
    student = ghostify.convert(network)
    with pytest.raises(GhostifyError, match="holds nan"):
        ghostify.evaluate(network, data)
    with pytest.raises(GhostifyError, match="holds nan"):
        ghostify.finetune(student, data, teacher=network, steps=4, batch_size=4)


def test_training_and_evaluation_refuse_other_channels(network):
    pytest.importorskip("lightning_fabric")
    data = (images(channels=5), torch.arange(8))
    with pytest.raises(GhostifyError, match="can't take images of 5x32x32"):
        ghostify.evaluate(network, data)
    with pytest.raises(GhostifyError, match="can't take images of 5x32x32"):
        ghostify.finetune(ghostify.convert(network), data, teacher=network, steps=1)


@pytest.fixture
def broken():
    with keep_random_state(0):
        made = ghostify.build("resnet20-cifar").eval()
    name = "layer2.0.conv1.weight"
    with torch.no_grad():
        made.get_parameter(name)[0, 0, 0, 0] = NAN
    return made


def test_a_network_without_numbers_teaches_nothing(network, broken):
    pytest.importorskip("lightning_fabric")
    data = (images(), torch.arange(8))
    with pytest.raises(GhostifyError, match=r"layer2\.0\.conv1\.weight"):
        ghostify.convert(broken, calibration=images())
    with pytest.raises(GhostifyError, match=r"layer2\.0\.conv1\.weight"):
        ghostify.finetune(ghostify.convert(network), data, teacher=broken, steps=1, batch_size=4)
    with pytest.raises(GhostifyError, match=r"layer2\.0\.conv1\.weight"):
        ghostify.evaluate(broken, data)


@pytest.mark.parametrize("mode", MODES)
def test_its_conversion_has_no_new_ones(broken, mode):
    made = ghostify.convert(broken, mode=mode)
    fresh = [name for name, _ in made.named_parameters() if "cheap" in name or "mix" in name]
    assert fresh
    assert not non_finite((name, made.get_parameter(name)) for name in fresh)


def test_a_fit_without_numbers_leaves_the_cold_start(broken):
    made = ghostify.convert(broken, calibration="data-free")
    start = history_of(made).start
    assert start is not None
    assert any("not fitted" in note and "layer2.0.conv1" in note for note in start.notes)
    assert "layer2.0.conv1" not in start.errors and "layer1.0.conv1" in start.errors
    assert len(non_finite(made.named_parameters())) <= 1


def test_half_precision_does_not_overflow_in_a_cold_start():
    net = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False)).half()
    with torch.no_grad():
        net[0].weight[:4], net[0].weight[4:] = 1e-4, 60000.0
    assert not non_finite(ghostify.convert(net, input_size=(3, 8, 8)).named_parameters())


@pytest.mark.parametrize("mode", MODES)
def test_maps_that_overflow_leave_the_cold_start(mode, network):
    """One image that overflows on the way, and isn't the one that the network is tried on."""
    with keep_random_state(0):
        fresh = ghostify.build("resnet20-cifar").eval()
    with torch.no_grad():
        for name, parameter in fresh.named_parameters():
            if "conv" in name:
                parameter.mul_(1e6)
    data = images(1e12)
    try:
        made = ghostify.convert(fresh, mode=mode, calibration=data)
    except GhostifyError as error:
        assert "finite" in str(error)
    else:
        assert not non_finite(made.state_dict().items())
