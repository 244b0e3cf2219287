"""Networks by name: the CIFAR ones, torchvision's, timm's, one's own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import nn

import ghostify
from ghostify.errors import ModelError, WeightsError
from ghostify.models import cifar


def test_the_cifar_resnets_have_the_keys_of_the_trained_files(data_dir: Path) -> None:
    for depth in (20, 56):
        state = ghostify.build(f"resnet{depth}-cifar").state_dict()
        with safe_open(data_dir / f"resnet{depth}-cifar10.safetensors", "pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
        counters = {key for key in state if key.endswith("num_batches_tracked")}
        own = {key: tuple(value.shape) for key, value in state.items() if key not in counters}
        assert own == {key: shape for key, shape in shapes.items() if key not in counters}


def test_the_trained_resnet20_recognises_real_images(
    trained_resnet20: nn.Module, accuracy: Any
) -> None:
    # 87.38 % of all 10,000 test images, by the data's notes; these are 1,000 of them.
    assert accuracy(trained_resnet20) >= 0.85


def test_option_a_shortcuts_have_no_parameters() -> None:
    # 3 stages of 18 convolutions, the first convolution, the linear layer; norms.
    model = ghostify.build("resnet56-cifar")
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == 55
    assert {m.kernel_size for m in model.modules() if isinstance(m, nn.Conv2d)} == {(3, 3)}


def test_vgg16_cifar_has_thirteen_convolutions_without_bias() -> None:
    convs = [m for m in ghostify.build("vgg16-cifar").modules() if isinstance(m, nn.Conv2d)]
    assert len(convs) == 13 and all(conv.bias is None for conv in convs)


def test_vgg16_cifar_of_a_quarter_width_has_a_quarter_of_the_channels() -> None:
    full, quarter = (ghostify.build("vgg16-cifar", {"width": width}) for width in (1.0, 0.25))
    for wide, thin in zip(full.modules(), quarter.modules(), strict=True):
        if isinstance(wide, nn.Conv2d):
            assert isinstance(thin, nn.Conv2d) and 4 * thin.out_channels == wide.out_channels
    assert quarter(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("width", [0, -1, 0.001])
def test_a_width_that_leaves_no_channel_is_refused(width: float) -> None:
    with pytest.raises(ModelError, match="leaves no channel"):
        ghostify.build("vgg16-cifar", {"width": width})


@pytest.mark.parametrize("name", ["resnet20-cifar", "vgg16-cifar"])
def test_cifar_networks_take_the_number_of_classes(name: str) -> None:
    model = ghostify.build(name, {"num_classes": 100})
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 100)


@pytest.mark.parametrize("depth", [7, 21, 2])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(ValueError, match=r"not 6n \+ 2"):
        cifar.ResNet(depth)


@pytest.mark.parametrize(
    "name",
    [
        "resnet110-cifar", "alexnet", "efficientnet_b0", "convnext_tiny", "regnet_y_400mf",
        "fcn_resnet50", "lraspp_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_fpn",
        "timm/resnet10t", "timm/ghostnet_050",
    ],
)  # fmt: skip
def test_networks_are_built_by_name_without_weights(name: str) -> None:
    assert name in ghostify.list_models()
    model = ghostify.build(name)
    assert isinstance(model, nn.Module) and model.training


def test_all_of_torchvision_and_timm_is_listed() -> None:
    import timm
    import torchvision

    names = ghostify.list_models()
    assert set(torchvision.models.list_models()) <= set(names)
    assert {f"timm/{name}" for name in timm.list_models()} <= set(names)
    assert names[0] in ghostify.models.NETWORKS  # its own first


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("resnet*-cifar", "resnet56-cifar"), ("vgg1", "vgg11_bn"), ("timm/test_*", "timm/test_vit")],
)
def test_listing_goes_by_glob_or_part(pattern: str, expected: str) -> None:
    names = ghostify.list_models(pattern)
    assert expected in names
    assert len(names) < 80


def test_an_unknown_name_is_refused_with_the_nearest_ones() -> None:
    with pytest.raises(ModelError, match=r"'resnet5O' is no model \(did you mean .*resnet50"):
        ghostify.build("resnet5O")
    with pytest.raises(ModelError, match=r"timm has no 'resnet5O' \(did you mean .*resnet50"):
        ghostify.build("timm/resnet5O")


def test_wrong_arguments_are_refused_with_what_the_factory_said() -> None:
    with pytest.raises(ModelError, match=r"can't be built with .*depth.*TypeError"):
        ghostify.build("resnet18", {"depth": 3})


def test_unknown_weights_are_refused_with_the_known_ones() -> None:
    with pytest.raises(WeightsError, match="IMAGENET1K_V2"):
        ghostify.build("resnet50", weights="IMAGENET1K_V7")


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, the current one, with a module of the user's own."""
    file = tmp_path / "own_nets.py"
    file.write_text(
        "from torch import nn\n"
        "import own_parts\n"
        "def net(width=4):\n    return nn.Sequential(nn.Conv2d(3, width, 3), own_parts.act())\n"
        "class Nets:\n    @staticmethod\n    def small():\n        return net(2)\n"
        "ready = net(8)\n"
        "number = 3\n"
        "def text():\n    return 'no network'\n"
    )
    (tmp_path / "own_parts.py").write_text("from torch import nn\nact = nn.ReLU\n")
    monkeypatch.chdir(tmp_path)
    return file


def test_a_factory_in_a_file_or_module_is_called(own_code: Path) -> None:
    assert ghostify.build(f"{own_code}:net", {"width": 6})[0].out_channels == 6
    assert ghostify.build("own_nets:net")[0].out_channels == 4
    assert ghostify.build("own_nets:Nets.small")[0].out_channels == 2
    assert ghostify.build("own_nets:ready")[0].out_channels == 8


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_nets:nett", r"has no 'nett' \(did you mean net"),
        ("own_nets:number", "is a int: name a factory"),
        ("own_nets:text", "gave a str, and no torch.nn.Module"),
        ("nowhere_to_be_found:net", "can't be imported"),
        ("nowhere.py:net", "is no file"),
    ],
)
def test_code_that_gives_no_network_is_refused(own_code: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        ghostify.build(name)


def test_a_file_that_fails_says_how(tmp_path: Path) -> None:
    file = tmp_path / "bad.py"
    file.write_text("import nothing_of_that_name\n")
    with pytest.raises(ModelError, match=r"bad\.py can't be imported: ModuleNotFoundError"):
        ghostify.build(f"{file}:net")


@pytest.mark.slow
def test_every_name_of_torchvision_is_built() -> None:
    import torchvision

    for name in torchvision.models.list_models():
        if name.startswith(("regnet", "quantized_")) or "vit_h" in name:
            continue  # read values when built; hundreds of millions of weights drawn for nothing
        with torch.device("meta"):
            assert isinstance(ghostify.build(name), nn.Module)


def test_a_first_build_may_be_on_the_meta_device() -> None:
    code = (
        "import torch, ghostify\n"
        "with torch.device('meta'):\n"
        "    print(next(ghostify.build('resnet18').parameters()).device)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.returncode) == ("meta\n", 0), done.stderr
