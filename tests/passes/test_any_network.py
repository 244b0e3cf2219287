"""Networks that are hard to convert: subclasses of layers, two graphs, none at all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import ghostify
from ghostify import GhostConv2d
from ghostify.api import preview

timm = pytest.importorskip("timm")


def shapes(output: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in pytree.tree_leaves(output) if isinstance(t, Tensor)]


def ghosts(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, GhostConv2d)]


def reasons(plan: ghostify.Plan) -> dict[str, str]:
    return {kept.name: kept.reason for kept in plan.kept}


# Small networks of timm, each with a trap.
TRAPS = {
    "resnetv2_50": "norms of its own (BatchNormAct2d)",
    "nf_regnet_b0": "weight-standardised, scaled convolutions",
    "resnetv2_50x1_bit": "weight-standardised convolutions",
    "tf_mobilenetv3_small_minimal_100": "convolutions padded as TensorFlow does",
    "resnetv2_50d_evos": "norms of its own",
    "tresnet_m": "a space-to-depth stem",
    "levit_conv_128s": "convolutions fused with norms",
    "efficientvit_b0": "control flow on data",
    "bat_resnext26ts": "control flow on data",
    "mobilevit_xxs": "reshapes of a grid",
    "edgenext_xx_small": "a weight whose device is asked for",
    "mixnet_s": "convolutions that are lists of others",
    "resnest14d": "split attention",
}


@pytest.mark.parametrize("name", TRAPS)
def test_networks_with_traps_run_as_before_in_both_modes(name: str) -> None:
    torch.manual_seed(0)
    model = timm.create_model(name)
    converted = ghostify.convert(model, s=2)
    assert len(ghosts(converted)) >= 4
    fixed = model.pretrained_cfg.get("fixed_input_size") or name == "bat_resnext26ts"
    x = torch.randn(2, *(model.pretrained_cfg["input_size"] if fixed else (3, 64, 64)))
    for mode in (True, False):
        out = converted.train(mode)(x)
        assert shapes(out) == shapes(model.train(mode)(x))
        assert torch.isfinite(out).all()
    converted.train()(x).square().mean().backward()
    unreached = [n for n, p in converted.named_parameters() if p.requires_grad and p.grad is None]
    assert unreached == []


def test_batch_norm_act_is_not_frozen_in_eval_mode() -> None:
    converted = ghostify.convert(timm.create_model("resnetv2_50").eval())
    norm = converted.stages[0].blocks[0].norm1
    assert type(norm).__name__ == "BatchNormAct2d"
    before = norm.running_mean.clone()
    converted.train()(torch.randn(2, 3, 64, 64))
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("name", ["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "Conv2dSame"])
def test_a_subclass_keeps_its_behaviour_in_the_primary_convolution(name: str) -> None:
    kind = getattr(timm.layers, name)
    torch.manual_seed(0)
    padding = {} if "Same" in name else {"padding": 1}
    conv = kind(3, 8, 3, stride=2, **padding)
    model = nn.Sequential(conv)
    converted = ghostify.convert(model, s=2)
    (ghost,) = converted
    assert type(ghost.primary) is kind
    x = torch.randn(2, 3, 11, 11)
    assert converted(x).shape == model(x).shape
    # Each filter is standardised by itself, so that the first four stay what they were.
    torch.testing.assert_close(converted(x)[:, :4], model(x)[:, :4])


def test_a_subclass_that_cannot_have_fewer_outputs_is_left_with_the_reason() -> None:
    class Paired(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            assert self.out_channels == 8
            return super().forward(x)

    plan = ghostify.plan(nn.Sequential(Paired(3, 8, 3)))
    assert reasons(plan) == {"0": "a Paired does not work with fewer outputs, or is not linear"}


def test_a_subclass_whose_weight_is_read_as_a_list_of_others_is_left_whole() -> None:
    class Holder(nn.Conv2d):
        def __init__(self) -> None:
            super().__init__(3, 8, 3)
            self.inner = nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(super().forward(x))

    plan = ghostify.plan(nn.Sequential(Holder()))
    assert reasons(plan)["0"] == "a Holder holds layers of its own"


@pytest.mark.parametrize(("name", "training_outputs"), [("googlenet", 3), ("inception_v3", 2)])
def test_auxiliary_heads_work_in_train_mode_and_are_gone_in_eval_mode(
    name: str, training_outputs: int
) -> None:
    model = ghostify.build(name, {"init_weights": False, "num_classes": 7})
    converted = ghostify.convert(model.eval())
    x = torch.randn(2, 3, 224 if name == "googlenet" else 299, 224 if name == "googlenet" else 299)
    assert shapes(converted(x[:1])) == [(1, 7)]
    assert shapes(converted.train()(x)) == [(2, 7)] * training_outputs
    assert any("aux" in ghost or "Aux" in ghost for ghost in ghosts(converted))


DETECTORS = [
    ("fasterrcnn_mobilenet_v3_large_fpn", "generalized_rcnn.py"),
    ("maskrcnn_resnet50_fpn", "generalized_rcnn.py"),
    ("keypointrcnn_resnet50_fpn", "generalized_rcnn.py"),
    ("retinanet_resnet50_fpn", "retinanet.py"),
    ("ssdlite320_mobilenet_v3_large", "ssd.py"),
    ("fcos_resnet50_fpn", "fcos.py"),
]


@pytest.mark.parametrize(("name", "file"), DETECTORS)
def test_detectors_are_converted_and_the_report_says_where_tracing_stopped(
    name: str, file: str
) -> None:
    with torch.device("meta"):
        model = ghostify.build(name)
    plan = ghostify.plan(model)
    assert any(item.name.startswith("backbone.") for item in plan.replaced)
    where = plan.untraced[0]
    assert where.startswith(f"the network: detection/{file}:")
    assert where.split(":")[2].isdigit()
    report = ghostify.report(model, plan=plan)
    assert any(f"detection/{file}:" in note for note in report.notes)
    # On the meta device there are no weights to run it for real with.
    assert report.how == "partial" and report.ratios.macs is None
    saved = [row for row in report.rows if row.replaced and row.after.macs is not None]
    assert all(row.ratios.macs is not None and row.ratios.macs > 1 for row in saved)


def test_a_converted_detector_trains() -> None:
    model = ghostify.build("ssdlite320_mobilenet_v3_large", {"num_classes": 3})
    converted = ghostify.convert(model).train()
    target = {"boxes": torch.tensor([[20.0, 20.0, 90.0, 120.0]]), "labels": torch.tensor([1])}
    losses = converted([torch.rand(3, 160, 160)] * 2, [target] * 2)
    sum(losses.values()).backward()
    stem = converted.backbone.features[0][0][0]
    assert isinstance(stem, GhostConv2d)
    assert stem.cheap.weight.grad is not None and stem.cheap.weight.grad.isfinite().all()


def test_segmentation_networks_give_their_dictionary() -> None:
    model = ghostify.build("lraspp_mobilenet_v3_large", {"num_classes": 4}).eval()
    converted = ghostify.convert(model)
    assert shapes(converted(torch.randn(1, 3, 64, 64))) == [(1, 4, 64, 64)]


class OnData(nn.Module):
    """Control flow on data in one part of three."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
        self.middle = Branch()
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


class Branch(nn.Module):
    """One of two convolutions, by the sign of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.plus = nn.Conv2d(8, 8, 3, padding=1)
        self.minus = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(x) if x.sum() > 0 else self.minus(x)


def test_control_flow_on_data_is_converted_and_located() -> None:
    model = OnData()
    plan = ghostify.plan(model)
    assert [item.name for item in plan.replaced] == [
        "first.0", "middle.plus", "middle.minus", "last",
    ]  # fmt: skip
    assert [stop.partition(":")[0] for stop in plan.untraced] == ["the network", "middle"]
    line = plan.untraced[1].split(":")[2]
    assert f"test_any_network.py:{line}" in plan.untraced[1]
    converted = ghostify.convert(model)
    for sign in (1, -1):
        assert converted(sign * torch.rand(1, 3, 8, 8)).shape == (1, 8, 4, 4)


def test_star_args_are_converted() -> None:
    class Star(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, *images: Tensor, **options: Any) -> list[Tensor]:
            return [self.conv(image) for image in images]

    model = Star()
    plan = ghostify.plan(model)
    assert [item.name for item in plan.replaced] == ["conv"]
    x = torch.randn(1, 3, 8, 8)
    assert shapes(ghostify.convert(model)(x, x)) == [(1, 8, 6, 6)] * 2
    twice = preview(model, example_inputs=(x, x))
    once = preview(model, example_inputs=(x,))
    assert twice is not None and once is not None
    assert twice.before.macs == 2 * (once.before.macs or 0)


def test_where_nothing_traces_and_nothing_runs_layers_are_still_replaced() -> None:
    class Opaque(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)])

        def forward(self, path: str) -> Tensor:
            if not isinstance(path, str):
                raise TypeError("give a path")
            x = torch.zeros(1, 3, 8, 8)
            for conv in self.convs:
                x = conv(x)
            return x

    model = Opaque()
    plan = ghostify.plan(model)
    assert [item.name for item in plan.replaced] == ["convs.0", "convs.1"]
    report = ghostify.report(model, plan=plan)
    assert report.before.macs is None
    assert report.ratios.params is not None and report.ratios.params > 1
    assert any("MACs unknown" in note and "give a path" in note for note in report.notes)
    assert ghostify.convert(model)("image.png").shape == (1, 8, 4, 4)


def test_a_forward_that_reads_a_layers_weight_keeps_that_layer() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.other = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return self.other(F.conv2d(x, self.conv.weight, padding=1))

    model = Reader()
    plan = ghostify.plan(model)
    assert [item.name for item in plan.replaced] == ["other"]
    assert reasons(plan)["conv"] == "its weight is read directly by a forward"
    assert ghostify.convert(model)(torch.randn(1, 3, 8, 8)).shape == (1, 8, 8, 8)


def test_a_weight_read_in_a_part_that_does_not_trace_is_found_by_running() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.other = nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, *args: Tensor) -> Tensor:
            (x,) = args
            weight = self.conv.weight if len(args) == 1 else None
            return self.other(F.conv2d(x, weight, padding=1))

    model = Reader()
    plan = ghostify.plan(model)
    assert [item.name for item in plan.replaced] == ["other"]
    assert "has no single 'weight'" in reasons(plan)["conv"]
    assert ghostify.convert(model)(torch.randn(1, 3, 8, 8)).shape == (1, 8, 8, 8)


def test_linear_layers_that_attention_reads_are_left() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.Flatten(2), nn.TransformerEncoderLayer(4, 2, 8)
    )
    plan = ghostify.plan(model, input_size=(3, 8, 8), linear=True)
    kept = reasons(plan)
    assert "2.self_attn.out_proj" in kept
    converted = ghostify.convert(model.eval(), plan)
    with torch.no_grad():
        assert converted(torch.randn(1, 3, 8, 8)).shape == (1, 16, 4)


def test_scripted_parts_are_left_alone() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), torch.jit.script(nn.Conv2d(8, 8, 3)))
    converted = ghostify.convert(model)
    assert ghosts(converted) == ["0"]
    assert converted(torch.randn(1, 3, 8, 8)).shape == (1, 8, 4, 4)


def test_a_compiled_network_is_converted() -> None:
    torch._dynamo.reset()
    model = torch.compile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), backend="aot_eager")
    converted = ghostify.convert(model, input_size=(3, 8, 8))
    assert len(ghosts(converted)) == 1
    assert converted(torch.randn(1, 3, 8, 8)).shape == (1, 8, 6, 6)


def test_a_network_in_data_parallel_is_converted() -> None:
    model = nn.DataParallel(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()))
    converted = ghostify.convert(model, input_size=(3, 8, 8))
    assert ghosts(converted) == ["module.0"]


def test_a_bare_convolution_is_converted_to_a_ghost_module() -> None:
    converted = ghostify.convert(nn.Conv2d(3, 8, 3), input_size=(3, 8, 8))
    assert isinstance(converted, GhostConv2d)


def test_a_network_without_convolutions_comes_back_as_it_is() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    plan = ghostify.plan(model, input_size=(3, 2, 2))
    assert not plan.replaced
    converted = ghostify.convert(model, input_size=(3, 2, 2))
    x = torch.randn(1, 3, 2, 2)
    assert torch.equal(converted(x), model(x))


def test_nothing_is_keyed_on_the_name_of_a_model_or_class() -> None:
    from pathlib import Path

    package = Path(ghostify.__file__).parent
    names = {
        "resnet",
        "vgg",
        "densenet",
        "googlenet",
        "inception",
        "retinanet",
        "rcnn",
        "mobilenet",
    }
    found = []
    for file in [
        *package.glob("graph/*.py"),
        *package.glob("passes/*.py"),
        *package.glob("nn/*.py"),
    ]:
        code = [line.partition("#")[0] for line in file.read_text().splitlines()]
        quoted = [line for line in code if any(f'"{n}' in line.lower() for n in names)]
        found += [(file.name, line) for line in quoted]
    assert found == []


def everything() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


@pytest.mark.slow
@pytest.mark.parametrize("s", [2, 4])
def test_every_classification_network_of_torchvision_is_converted(s: int) -> None:
    for name in everything():
        try:
            with torch.device("meta"):
                model = ghostify.build(name)
        except ghostify.GhostifyError:  # reads a tensor's value when built
            model = ghostify.build(name)
        check_on_meta(name, model, s)


def check_on_meta(name: str, model: nn.Module, s: int) -> None:
    """Convert; run the original and the copy on the meta device; compare what they give."""
    converted = ghostify.convert(model, s=s)
    report = ghostify.report(converted)
    assert report.before.macs, name
    size = tuple(int(v) for v in report.inputs.split("x"))
    x = torch.empty(size, device="meta")
    with torch.no_grad():
        expected = shapes(model.to("meta").eval()(x))
        assert shapes(converted.to("meta").eval()(x)) == expected, name
    assert report.after.params == sum(p.numel() for p in converted.parameters()), name


@pytest.mark.slow
def test_a_network_of_each_family_of_timm_is_converted() -> None:
    families: dict[str, str] = {}
    for name in timm.list_models():
        families[timm.models._registry._model_entrypoints[name].__module__] = name
    families.pop("timm.models.sequencer", None)  # LSTMs, minutes on the meta device
    assert len(families) > 80
    for name in families.values():
        with torch.device("meta"):
            model = timm.create_model(name)
        plan = ghostify.plan(model)
        report = ghostify.report(model, plan=plan)
        assert report.before.macs, name
        incomplete = ("MACs unknown", "MACs are those of", "its MACs are not known")
        bad = [note for note in report.notes if any(text in note for text in incomplete)]
        assert bad == [], name
        ghostify.convert(model, plan)
