"""C-GhostNet: Table 1's structure, exact counts, widths, inputs, pyramids, checkpoints' names."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import ghostify
from ghostify.errors import ModelError, SettingsError, WeightsError
from ghostify.models import CGhostNet, c_ghostnet
from ghostify.models.frame import scaled
from ghostify.nn import GhostConv2d, GhostModule

# params, MACs with fc at 224 x 224 and 1000 classes, counted outside this project
EXACT = {0.5: (2_587_292, 42.33), 1.0: (5_182_508, 141.15), 1.3: (7_358_820, 227.00)}


@pytest.mark.parametrize("width", EXACT)
def test_counts_are_exact(width):
    params, macs = EXACT[width]
    total = ghostify.count(c_ghostnet(width)).total
    assert total.params == params
    assert round(total.macs / 1e6, 2) == macs


@pytest.mark.parametrize(("name", "width"), [("c-ghostnet", 1.0), ("c-ghostnet-0.5x", 0.5)])
def test_names_build_their_widths(name, width):
    params = sum(p.numel() for p in ghostify.build(name).parameters())
    assert params == EXACT[width][0]


def test_models_lists_the_networks():
    assert {"c-ghostnet", "c-ghostnet-0.5x", "c-ghostnet-1.3x"} <= set(
        ghostify.list_models("c-ghostnet*")
    )


def test_stages_put_out_the_sizes_and_channels_of_table_1():
    with torch.device("meta"):
        net, image = c_ghostnet(), torch.empty(1, 3, 224, 224)
    shapes = [tuple(maps.shape[1:]) for maps in net.forward_features(image)]
    assert shapes == [(24, 56, 56), (40, 28, 28), (112, 14, 14), (160, 7, 7)]


def test_it_has_the_sixteen_blocks_of_table_1():
    blocks = [name for name, m in c_ghostnet().named_modules() if hasattr(m, "project")]
    assert len(blocks) == 16
    assert [sum(b.startswith(f"stage{n}.") for b in blocks) for n in (1, 2, 3, 4)] == [2, 2, 6, 5]


@given(channels=st.integers(1, 2000), width=st.floats(0.1, 3))
def test_scaled_channels_are_multiples_of_4_and_not_below_90_percent(channels, width):
    result = scaled(channels, width)
    assert result % 4 == 0
    assert result >= 0.9 * channels * width
    assert result <= max(4, channels * width + 6)


@pytest.mark.parametrize(("in_chans", "num_classes"), [(1, 10), (4, 3)])
def test_channels_and_classes_are_free(in_chans, num_classes):
    net = c_ghostnet(0.5, num_classes=num_classes, in_chans=in_chans).eval()
    assert net(torch.zeros(2, in_chans, 64, 48)).shape == (2, num_classes)
    assert ghostify.count(net).inputs == f"1x{in_chans}x224x224"


def test_without_classes_the_embedding_comes_out():
    assert c_ghostnet(0.5, num_classes=0).eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1280)


def test_dropout_acts_in_training_alone():
    net = c_ghostnet(0.5, dropout=0.9).eval()
    image = torch.randn(2, 3, 32, 32)
    assert torch.equal(net(image), net(image))
    net.dropout.train()
    assert not torch.equal(net(image), net(image))


def test_every_parameter_gets_a_gradient():
    net = c_ghostnet(0.5, num_classes=5)
    net(torch.randn(2, 3, 64, 64)).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_a_block_leaves_its_input_alone():
    block = c_ghostnet(0.5).stage1[1].eval()
    x = torch.randn(1, 12, 8, 8)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("width", [0, -1, float("nan"), "wide", True])
def test_a_width_that_makes_no_sense_is_refused(width):
    with pytest.raises(SettingsError, match="width="):
        c_ghostnet(width)
    with pytest.raises(ModelError, match="width="):
        ghostify.build("c-ghostnet", {"width": width})


def test_a_ghost_module_is_a_ghost_convolution_with_norms_inside():
    module = GhostModule(8, 24, s=2).eval()
    x = torch.randn(2, 8, 6, 6)
    conv, norm, act = module.primary
    intrinsic = act(norm(conv(x)))
    conv, norm, act = module.cheap
    expected = torch.cat([intrinsic, act(norm(conv(intrinsic)))], 1)
    assert isinstance(module, GhostConv2d)
    assert torch.allclose(module(x), expected)


def test_a_ghost_module_of_s_3_puts_out_the_first_n_channels():
    assert GhostModule(8, 10, s=3)(torch.randn(2, 8, 6, 6)).shape == (2, 10, 6, 6)


def test_the_pyramid_is_what_the_stages_put_out():
    torch.manual_seed(0)
    net = c_ghostnet(0.5).eval()
    torch.manual_seed(0)
    pyramid = c_ghostnet(0.5, features_only=True, stages=(4, 2)).eval()
    image = torch.randn(1, 3, 64, 64)
    expected = net.forward_features(image)
    for found, stage in zip(pyramid(image), (1, 3), strict=True):
        assert torch.equal(found, expected[stage])
    assert pyramid.channels == (20, 80)
    assert pyramid.strides == (8, 32)


def test_a_pyramid_holds_no_stage_that_it_does_not_need():
    assert "stage4" not in dict(c_ghostnet(0.5, features_only=True, stages=(2,)).named_children())


@pytest.mark.parametrize("stages", [(), (0, 1), (5,)])
def test_stages_that_do_not_exist_are_refused(stages):
    with pytest.raises(SettingsError, match="stages="):
        c_ghostnet(0.5, features_only=True, stages=stages)


def _released_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """timm's network has the released checkpoints' names; its norms get statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 2, generator=generator)
    return model.state_dict()


def test_a_released_checkpoint_gives_the_same_outputs(tmp_path):
    timm = pytest.importorskip("timm")
    reference = timm.create_model("ghostnet_100").eval()
    state = _released_state(reference)
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    net = ghostify.build("c-ghostnet", weights=tmp_path / "w.pth").eval()
    image = torch.randn(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(net(image), reference(image))


def test_own_names_load_too(tmp_path):
    net = c_ghostnet(0.5, num_classes=7)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    again = ghostify.build("c-ghostnet-0.5x", {"num_classes": 7}, tmp_path / "w.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), again.parameters(), strict=True))


def test_every_key_has_one_released_name():
    aliases = CGhostNet(width=0.5).key_aliases()
    assert set(aliases.values()) == set(CGhostNet(width=0.5).state_dict())


def test_a_checkpoint_of_another_width_is_refused_with_the_key(tmp_path):
    save_file(c_ghostnet(0.5).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"stem\.conv\.weight"):
        ghostify.build("c-ghostnet", weights=tmp_path / "w.safetensors")


def test_it_can_be_converted_further():
    net = c_ghostnet(0.5)
    cheaper = ghostify.convert(net, mode="c-ghost", s=2)
    assert ghostify.report(cheaper).ratios.params > 1
    assert cheaper.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 1000)
