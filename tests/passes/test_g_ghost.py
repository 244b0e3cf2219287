"""Rebuilding stages: where they go, what stays, whose weights they have."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ghostify
from ghostify import GGhostStage, GhostConv2d, Plan
from ghostify.api import preview
from tests.passes.blocks import KINDS, Net

SIZE = {"input_size": (3, 12, 12)}


def _net(kind="Basic", channels=16, blocks=4, **options):
    torch.manual_seed(0)
    return Net(KINDS[kind], channels, blocks, **options).eval()


def _convert(net, **options):
    return ghostify.convert(net, mode="g-ghost", **{**SIZE, **options})


def test_the_stage_takes_the_place_of_the_module_that_held_the_blocks():
    converted = _convert(_net())
    assert isinstance(converted.stage, GGhostStage)
    assert {key.split(".")[1] for key in converted.state_dict() if key.startswith("stage.")} == {
        "first", "thin", "cheap", "mix", "last",
    }  # fmt: skip


def test_the_network_keeps_its_class_and_all_outside_the_stage():
    net = _net()
    converted = _convert(net)
    assert type(converted) is Net
    for name in ("stem", "head"):
        for old, new in zip(
            getattr(net, name).parameters(), getattr(converted, name).parameters(), strict=True
        ):
            assert torch.equal(old, new)
            assert old is not new


def test_the_original_is_not_touched():
    net = _net()
    before = copy.deepcopy(net.state_dict())
    modules = list(net.modules())
    _convert(net)
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert list(net.modules()) == modules


def test_converting_in_place_gives_what_converting_a_copy_gives():
    net, x = _net(), torch.randn(2, 3, 12, 12)
    expected = _convert(net)(x)
    assert ghostify.convert_(net, mode="g-ghost", **SIZE) is net
    assert torch.equal(net(x), expected)


def test_first_and_last_block_keep_their_weights():
    net = _net()
    stage = _convert(net).stage
    assert all(map(torch.equal, net.stage[0].parameters(), stage.first.parameters()))
    assert all(map(torch.equal, net.stage[3].parameters(), stage.last.parameters()))


def test_a_stage_among_siblings_takes_the_place_of_its_first_block_and_the_rest_do_nothing():
    blocks = [KINDS["Basic"](8) for _ in range(4)]
    net = nn.Sequential(nn.Conv2d(3, 8, 1), *blocks, nn.Conv2d(8, 4, 1)).eval()
    converted = _convert(net)
    kinds = [type(module).__name__ for module in converted]
    assert kinds == ["Conv2d", "GGhostStage", "Identity", "Identity", "Identity", "Conv2d"]
    x = torch.randn(1, 3, 12, 12)
    assert torch.equal(converted(x), converted[5](converted[1](converted[0](x))))


def test_functions_between_layers_are_part_of_the_blocks():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))

        def forward(self, x):
            for conv in self.convs:
                x = F.relu(conv(x))
            return x

    net, x = Plain().eval(), torch.randn(1, 8, 12, 12)
    converted = _convert(net, input_size=(8, 12, 12))
    stage = converted.convs[0]
    assert isinstance(stage, GGhostStage)
    torch.testing.assert_close(stage.first(x), net.convs[0](x).relu())
    assert torch.equal(converted(x), stage(x))


def test_functions_that_would_run_on_the_stages_output_again_leave_the_stage():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.convs = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))

        def forward(self, x):
            for conv in self.convs:
                x = torch.tanh(conv(x))
            return x

    plan = ghostify.plan(Plain(), mode="g-ghost", input_size=(8, 12, 12))
    assert plan.stages == ()
    assert "tanh" in plan.kept_stages[0].reason


def test_blocks_that_are_used_at_two_places_are_left_with_the_reason():
    class Shared(Net):
        def forward(self, x):
            x = self.stage(F.relu(self.stem(x)))
            return self.head(self.stage[0](x).mean((2, 3)))

    plan = ghostify.plan(Shared(KINDS["Basic"], 8, 3), mode="g-ghost", **SIZE)
    assert plan.stages == ()
    assert "several places" in plan.kept_stages[0].reason


def test_a_stage_called_twice_as_a_whole_is_rebuilt_once():
    class Twice(Net):
        def forward(self, x):
            x = self.stage(self.stage(F.relu(self.stem(x))))
            return self.head(x.mean((2, 3)))

    converted = _convert(Twice(KINDS["Basic"], 8, 3).eval())
    assert isinstance(converted.stage, GGhostStage)
    assert converted(torch.randn(1, 3, 12, 12)).shape == (1, 5)


def test_hooks_and_modes_go_along():
    net = _net()
    calls = []
    net.stage.register_forward_hook(lambda *_: calls.append("stage"))
    net.stage[0].register_forward_hook(lambda *_: calls.append("first"))
    net.stage[1].eval()
    converted = _convert(net)
    converted(torch.randn(1, 3, 12, 12))
    assert calls == ["first", "stage"]
    assert not converted.training


def test_selectors_choose_stages():
    def rebuilt(**options):
        plan = ghostify.plan("resnet20-cifar", mode="g-ghost", **options)
        return [stage.name for stage in plan.stages]

    assert rebuilt(only="layer[23]") == ["layer2", "layer3"]
    assert rebuilt(keep=["layer1"]) == ["layer2", "layer3"]
    assert rebuilt(keep=lambda name, block: block.conv1.in_channels == 16) == ["layer3"]
    with pytest.raises(ghostify.GhostifyError, match="they are layer1, layer2, layer3"):
        rebuilt(only="layer9")


def test_the_ratio_may_differ_from_stage_to_stage():
    plan = ghostify.plan("resnet20-cifar", mode="g-ghost", ratio={"layer1": 0.25, "*": 0.75})
    assert [stage.complicated for stage in plan.stages] == [12, 8, 16]


def test_a_plan_goes_through_its_data_and_can_be_edited_and_followed():
    plan = ghostify.plan("resnet20-cifar", mode="g-ghost", preset="cifar")
    again = Plan.from_dict(plan.to_dict())
    assert again == plan
    data = plan.to_dict()
    del data["stages"][1]
    converted = ghostify.convert("resnet20-cifar", Plan.from_dict(data))
    kinds = [type(getattr(converted, f"layer{i}")).__name__ for i in (1, 2, 3)]
    assert kinds == ["GGhostStage", "Sequential", "GGhostStage"]


@pytest.mark.parametrize("options", [{}, {"entry": "project"}, {"mode": "cg-ghost"}])
def test_a_saved_network_loads_with_equal_outputs(options, tmp_path):
    converted = ghostify.convert("resnet20-cifar", **{"mode": "g-ghost", **options}).eval()
    ghostify.save(converted, tmp_path / "out")
    loaded = ghostify.load(tmp_path / "out")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded(x), converted(x))
    assert ghostify.report(loaded).stages == ghostify.report(converted).stages


def test_cg_ghost_puts_ghost_modules_outside_the_rebuilt_stages_alone():
    converted = ghostify.convert("resnet20-cifar", mode="cg-ghost", keep="layer3", s=4)
    kinds = {
        name: type(module)
        for name, module in converted.named_modules()
        if isinstance(module, GGhostStage | GhostConv2d)
    }
    assert kinds == {"conv1": GhostConv2d, "layer1": GGhostStage, "layer2": GGhostStage}
    assert converted.conv1.s == 4


def test_cg_ghost_converts_the_layers_of_stages_that_were_not_asked_for():
    converted = ghostify.convert("resnet20-cifar", mode="cg-ghost", only="layer2")
    assert isinstance(converted.layer2, GGhostStage)
    assert isinstance(converted.layer1[0].conv1, GhostConv2d)
    assert not any(isinstance(m, GhostConv2d) for m in converted.layer2.modules())


def test_the_backbone_of_a_detector_is_rebuilt_and_its_feature_maps_keep_their_shapes():
    detector = ghostify.build("retinanet_resnet50_fpn").eval()
    converted = ghostify.convert(detector, mode="g-ghost", only="backbone")
    assert isinstance(converted.backbone.body.layer3, GGhostStage)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        before, after = detector.backbone(x), converted.backbone(x)
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}


def test_the_gaps_are_all_that_parts_measured_costs_from_the_equations():
    for options in ({}, {"preset": "cifar"}, {"tail": "thin"}, {"preset": "regnet"}):
        report = preview("resnet20-cifar", mode="g-ghost", **options)
        for stage in report.rebuilt:
            macs = stage.before.macs / stage.eq13 + sum(gap.macs for gap in stage.gaps)
            params = stage.before.params / stage.eq14 + sum(gap.params for gap in stage.gaps)
            assert macs == pytest.approx(stage.after.macs)
            assert params == pytest.approx(stage.after.params)


def test_the_report_goes_through_json_and_names_each_stage():
    report = preview("resnet20-cifar", mode="g-ghost")
    assert ghostify.Report.from_dict(report.to_dict()) == report
    assert "| layer2 | 3 |" in report.to_markdown()
    assert "3 stages rebuilt" in str(report)


def test_check_holds_stages_against_bounds():
    report = preview("resnet56-cifar", mode="g-ghost", preset="cifar")
    verdicts = ghostify.check(report, ghostify.Bounds(min_macs_ratio=2.4, min_params_ratio=2.3))
    assert [verdict.met for verdict in verdicts] == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0}, "ratio=0 makes no sense"),
        ({"ratio": float("nan")}, "ratio=nan makes no sense"),
        ({"ratio": {"layer1": 1.5}}, "ratio=1.5"),
        ({"cheap": 2}, "cheap=2 is none of 1, 3, 5, identity, none"),
        ({"mix": "conv"}, "mix='conv' is none of fc, mlp, none"),
        ({"min_blocks": 2}, "min_blocks=2"),
        ({"preset": "regnets"}, "did you mean regnet"),
        ({"group_width": -1}, "group_width=-1"),
        ({"s": 2}, "'s' is no setting of g-ghost"),
    ],
)
def test_settings_that_make_no_sense_get_a_sentence(options, message):
    with pytest.raises(ghostify.GhostifyError, match=message.replace("(", r"\(")):
        ghostify.plan("resnet20-cifar", mode="g-ghost", **options)


@pytest.mark.slow
def test_a_rebuilt_network_passes_every_check():
    original = ghostify.build("resnet20-cifar")
    converted = ghostify.convert(original, mode="g-ghost", preset="cifar")
    checks = list(ghostify.verify(converted, original=original))
    assert {check.status for check in checks} == {"ok"}, [str(check) for check in checks]


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_hook_that_is_a_method_of_the_network_sees_the_rebuilt_one(block):
    class Watching(Net):
        def __init__(self):
            super().__init__(KINDS["Basic"], channels=16, blocks=3)
            self.notes = []
            self.stage[block].conv1.register_forward_hook(self.note)
            self.stage[block].register_forward_hook(self.note)

        def note(self, module, args, output):
            self.notes.append(output.shape)

    original = Watching()
    converted = ghostify.convert(original, mode="g-ghost", input_size=(3, 12, 12))
    assert [type(m).__name__ for n, m in converted.named_modules() if n == "stage"] == [
        "GGhostStage"
    ]
    report = ghostify.report(converted)
    assert report.after.params == sum(p.numel() for p in converted.parameters())
    converted(torch.rand(2, 3, 12, 12))
    assert original.notes == []
    if block == 0:  # a block that gets thin has thin layers, and those no hooks
        assert len(converted.notes) == 2
