"""Stages found in real networks, and in small ones of every kind of block."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ghostify


def _stages(model, **options):
    table = ghostify.find_stages(model, **options)
    return {stage.name: len(stage.blocks) for stage in table.stages}, table


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet50", {"layer1": 3, "layer2": 4, "layer3": 6, "layer4": 3}),
        ("resnet18", {}),
        ("resnet56-cifar", {"layer1": 9, "layer2": 9, "layer3": 9}),
        ("vgg16-cifar", {"features.14..20": 3, "features.24..30": 3, "features.34..40": 3}),
        ("regnet_y_3_2gf", {"trunk_output.block2": 5, "trunk_output.block3": 13}),
        (
            "mobilenet_v2",
            {"features.4..6": 3, "features.7..10": 4, "features.11..13": 3, "features.14..16": 3},
        ),
        ("mobilenet_v3_large", {"features.4..6": 3, "features.7..10": 4, "features.13..15": 3}),
        ("convnext_tiny", {f"features.{i}": n for i, n in ((1, 3), (3, 3), (5, 9), (7, 3))}),
        ("shufflenet_v2_x1_0", {"stage2": 4, "stage3": 8, "stage4": 4}),
        ("inception_v3", {"Mixed_6a..Mixed_6e": 5}),
        ("densenet121", {}),
        ("timm/resnetv2_50", {f"stages.{i}.blocks": n for i, n in enumerate((3, 4, 6, 3))}),
        ("timm/repvgg_a0", {"stages.1": 4, "stages.2": 14}),
        (
            "timm/cspdarknet53",  # in stages.1 a branch of two blocks, which begins with its input
            {
                "stages.1.blocks.0": 1,
                **{f"stages.{i}.blocks": n for i, n in ((2, 8), (3, 8), (4, 4))},
            },
        ),
        ("timm/convnext_tiny", {f"stages.{i}.blocks": n for i, n in enumerate((3, 3, 9, 3))}),
        ("fcn_resnet50", {f"backbone.layer{i}": n for i, n in ((1, 3), (2, 4), (3, 6), (4, 3))}),
    ],
)
def test_the_stages_of_known_networks_are_found(name, expected):
    found, _ = _stages(name)
    assert found == expected


def test_stages_of_resnets_are_those_that_their_tables_name_with_shapes_and_shares():
    _, table = _stages("resnet50")
    assert [stage.shape for stage in table.stages] == [
        (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip
    total = ghostify.count(ghostify.build("resnet50")).total
    assert sum(s.macs_share for s in table.stages) == pytest.approx(
        sum(s.cost.macs for s in table.stages) / total.macs
    )


def test_dense_blocks_are_left_since_more_than_one_tensor_goes_from_block_to_block():
    _, table = _stages("densenet121")
    reasons = {left.name: left.reason for left in table.left}
    assert "more than one tensor" in reasons["features.denseblock3"]


def test_unequal_inception_blocks_are_left_since_their_outputs_differ():
    _, table = _stages("inception_v3")
    reasons = {left.name: left.reason for left in table.left}
    assert "differ in shape" in reasons["Mixed_5b..Mixed_5d"]


def test_stages_of_two_blocks_are_left_with_their_number():
    _, table = _stages("resnet18")
    assert {left.reason for left in table.left} == {"2 blocks, fewer than 3"}


def test_min_blocks_says_what_counts_as_a_stage():
    found, _ = _stages("resnet18", min_blocks=2, tail="thin")
    assert found == {f"layer{i}": 2 for i in range(1, 5)}


def test_the_backbone_inside_a_detector_that_does_not_trace_is_searched():
    found, table = _stages(ghostify.build("retinanet_resnet50_fpn"))
    assert found["backbone.body.layer3"] == 6
    assert "retinanet.py" in table.notes[0]


class _Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return x + self.conv2(F.relu(self.conv1(x)))


def test_a_stage_inside_one_branch_of_a_u_net_is_found():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
            self.inner = nn.Sequential(*(_Residual(16) for _ in range(4)))
            self.up = nn.Conv2d(16, 8, 1)

        def forward(self, x):
            skip = F.relu(self.stem(x))
            deep = self.inner(self.down(skip))
            return skip + F.interpolate(self.up(deep), scale_factor=2)

    found, _ = _stages(UNet(), input_size=(3, 16, 16))
    assert found == {"inner": 4}


def test_layers_inside_residual_blocks_are_no_stage_of_their_own():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)))

        def forward(self, x):
            return x + self.body(x)

    found, _ = _stages(nn.Sequential(nn.Conv2d(3, 8, 1), Deep(), Deep()), input_size=(3, 8, 8))
    assert found == {}


def test_a_stem_of_one_layer_does_not_become_the_first_block_of_a_stage_of_blocks():
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *(_Residual(8) for _ in range(3)))
    found, _ = _stages(net, input_size=(3, 8, 8))
    assert found == {"1..3": 3}


def test_blocks_without_modules_of_their_own_are_layers_with_what_follows_them():
    layers = []
    for channels in (8, 8, 8, 8):
        layers += [nn.Conv2d(8, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    _, table = _stages(nn.Sequential(*layers), input_size=(8, 8, 8))
    assert [stage.blocks for stage in table.stages] == [
        (("0", "1", "2"), ("3", "4", "5"), ("6", "7", "8"), ("9", "10", "11"))
    ]


def test_the_table_shows_and_serialises():
    _, table = _stages("resnet20-cifar", ratio=0.4)
    data = table.to_dict()
    assert data["schema"] == "ghostify.stages/1"
    assert [s["ratio"] for s in data["stages"]] == [0.4, 0.4, 0.4]
    assert "layer2" in str(table)
    assert "| layer2 |" in table.to_markdown()
    assert "<td>layer2</td>" in table._repr_html_()


def test_finding_stages_runs_nothing_and_changes_nothing():
    net = ghostify.build("resnet20-cifar")
    before = {key: value.clone() for key, value in net.state_dict().items()}
    ghostify.find_stages(net)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert net.training
