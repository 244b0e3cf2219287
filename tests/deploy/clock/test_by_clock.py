"""Conversions by the clock, from a table that is made up, and by what is measured here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import ghostify
from ghostify.api import decide
from ghostify.deploy.clock import leaving
from ghostify.deploy.clock.search import WholeTime
from ghostify.errors import GhostifyError, SettingsError
from ghostify.plans import Plan
from ghostify.saving.history import history_of

SIZE = {"input_size": (3, 12, 12)}
FORMS = ("s=2, d=3", "s=4, d=3", "s=8, d=3", "s=16, d=3")
Times = dict[str, tuple[float, ...]]


def write_table(path: Path, network: nn.Module, times: Times, total: float = 10.0) -> Path:
    """A table of another machine, with the signatures of a network's layers.

    Args:
        path: The file.
        network: The network.
        times: For layers by name milliseconds: left, then with each s.
        total: Of the whole network.
    """
    decide(network, runtime="eager", latency_table=path, **SIZE)  # writes the signatures
    data = json.loads(path.read_text())
    data["processor"] = "a phone"
    signatures = sorted(data["times"], key=lambda text: "Conv2d(3," not in text)
    data["times"] = {
        signature: dict(zip(("left", *FORMS), own, strict=False))
        for signature, own in zip(signatures, times.values(), strict=True)
    }
    data["networks"] = dict.fromkeys(data["networks"], total)
    path.write_text(json.dumps(data))
    return path


GAIN = {"first": (2.0, 2.5, 2.4, 2.3, 2.2), "others": (4.0, 2.5, 1.5, 1.2, 1.1)}


@pytest.fixture
def table(network: nn.Module, tmp_path: Path) -> Path:
    """A phone where the first layer is slower as ghosts, and both others are faster."""
    return write_table(tmp_path / "phone.json", network, GAIN)


def test_what_is_not_faster_is_left_and_the_plan_says_so(network: nn.Module, table: Path) -> None:
    plan = ghostify.plan(network, runtime="eager", latency_table=table, **SIZE)
    assert [item.name for item in plan.replaced] == ["3", "6"]
    assert {k.name: k.reason for k in plan.kept}["0"] == "not faster in eager"
    assert plan.times is not None and plan.times.conditions.processor == "a phone"
    assert plan.times.ratio is None and plan.times.predicted == pytest.approx(0.7)
    own = plan.times.of("3")
    assert own is not None and (own.before, own.after) == (4.0, 2.5)


def test_a_target_is_met_by_the_layers_times(network: nn.Module, table: Path) -> None:
    options = {"runtime": "eager", "latency_table": table, **SIZE}
    for target, most in ((0.86, 0.86), (0.6, 0.6), ("5.5ms", 0.55)):
        plan = ghostify.plan(network, target_latency=target, **options)
        assert plan.times is not None and plan.times.predicted <= most + 1e-6
        assert plan.times.target == target
        assert plan.settings.s["0"] == 1
    assert {item.name for item in plan.replaced} == {"3", "6"}


def test_images_say_which_layer_loses_least(network: nn.Module, table: Path) -> None:
    with torch.no_grad():  # all maps of one layer are the same: its ghosts lose nothing
        network[6].weight[:] = network[6].weight[:1].clone()
        network[6].bias.zero_()
    plan = ghostify.plan(
        network, target_latency=0.86, runtime="eager", latency_table=table,
        calibration=torch.rand(16, 3, 12, 12), **SIZE,
    )  # fmt: skip
    assert [item.name for item in plan.replaced] == ["6"]
    assert {k.name: k.reason for k in plan.kept}["3"].endswith("is met without it")
    assert plan.calibration is not None


def test_what_the_table_cannot_give_says_how_far_it_gets(network: nn.Module, table: Path) -> None:
    options = {"runtime": "eager", "latency_table": table, **SIZE}
    with pytest.raises(SettingsError, match=r"target_latency=0.3 can't be reached .* 0.420 of"):
        ghostify.plan(network, target_latency=0.3, **options)


def test_a_plan_with_times_is_plain_data_and_can_be_followed(
    network: nn.Module, table: Path, tmp_path: Path
) -> None:
    options = {"runtime": "eager", "latency_table": table, **SIZE}
    plan = ghostify.plan(network, target_latency=0.7, **options)
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan and "a phone" in str(plan)
    made = ghostify.convert(network, target_latency=0.7, **options)
    loaded = ghostify.load(ghostify.save(made, tmp_path / "out"), network)
    assert history_of(loaded).plans[0].times == plan.times
    report = ghostify.report(loaded)
    assert report.times == plan.times and "4.00 > " in report.to_markdown()
    assert report.rows[1].time_before == 4.0
    broken = {**plan.to_dict(), "times": {**plan.to_dict()["times"], "ratio": "fast"}}
    with pytest.raises(GhostifyError, match="ratio='fast'"):
        Plan.from_dict(broken)


def test_a_table_without_a_layer_leaves_it(network: nn.Module, table: Path) -> None:
    data = json.loads(table.read_text())
    data["times"] = {k: v for k, v in data["times"].items() if "Conv2d(3," in k}
    table.write_text(json.dumps(data))
    with pytest.raises(SettingsError, match="can't be reached"):
        ghostify.plan(network, target_latency=0.9, runtime="eager", latency_table=table, **SIZE)


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_measured_here_the_whole_is_measured_too(
    network: nn.Module, runtime: str, cache: Path
) -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    made = ghostify.convert(network, runtime=runtime, **SIZE)
    (plan,) = history_of(made).plans
    assert plan.times is not None and {t.name for t in plan.times.layers} == {"0", "3", "6"}
    assert bool(plan.replaced) == (plan.times.ratio is not None)
    assert torch.equal(state, torch.get_rng_state()) and torch.get_num_threads() == threads
    (file,) = (cache / "latency").iterdir()
    assert len(json.loads(file.read_text())["times"]) == 2


def test_what_is_in_the_cache_is_not_measured_again(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    ghostify.plan(network, runtime="onnxruntime", **SIZE)
    asked: list[int] = []
    real = leaving.make_timetable.__globals__["Stopwatch"].layers
    monkeypatch.setattr(
        leaving.make_timetable.__globals__["Stopwatch"], "layers",
        lambda self, wanted, *rest: asked.append(len(wanted)) or real(self, wanted, *rest),
    )  # fmt: skip
    ghostify.plan(network, runtime="onnxruntime", **SIZE)
    ghostify.plan(network, runtime="onnxruntime", s=3, **SIZE)
    assert asked == [0, 2]


def test_a_network_that_is_slower_as_a_whole_loses_what_saves_least(
    network: nn.Module, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads(table.read_text())
    here = decide(network, runtime="eager", **SIZE).plan.times
    assert here is not None
    data |= {"processor": here.conditions.processor, "form": here.conditions.form}
    table.write_text(json.dumps(data))
    sizes: list[int] = []

    def time_whole(_: nn.Module, plan: Plan, *rest: object) -> WholeTime:
        sizes.append(len(plan.replaced))
        ratio = 1.2 if len(plan.replaced) > 1 else 0.9
        return WholeTime(10.0, 10 * ratio, ratio, ratio - 0.05, ratio + 0.05)

    monkeypatch.setattr(leaving, "time_whole", time_whole)
    plan = ghostify.plan(network, runtime="eager", latency_table=table, **SIZE)
    assert sizes == [2, 1] and len(plan.replaced) == 1
    reasons = [k.reason for k in plan.kept]
    assert "the whole network was not faster in eager with it" in reasons
    assert plan.times is not None and plan.times.ratio == 0.9


def test_stages_are_timed_too() -> None:
    plan = ghostify.plan("resnet20-cifar", mode="g-ghost", runtime="eager")
    assert plan.times is not None
    names = {stage.name for stage in plan.stages} | {k.name for k in plan.kept_stages}
    assert {time.name for time in plan.times.layers} == {"layer1", "layer2", "layer3"} == names


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target_latency": 0.6}, "given without runtime"),
        ({"threads": 2}, "threads given without runtime"),
        ({"runtime": "onnx"}, "runtime='onnx' is none"),
        ({"runtime": "eager", "target_latency": 1.5}, "a part between 0 and 1"),
        ({"runtime": "eager", "target_latency": "fast"}, "target_latency='fast'"),
        ({"runtime": "eager", "target_latency": "-3ms"}, "target_latency='-3ms'"),
        ({"runtime": "eager", "target_latency": True}, "target_latency=True"),
        ({"runtime": "eager", "threads": 0}, "threads=0"),
        ({"runtime": "eager", "batch": 0}, "batch=0"),
        ({"runtime": "eager", "device": "nowhere"}, "device='nowhere'"),
        ({"runtime": "eager", "latency_table": 3}, "latency_table=3"),
        ({"runtime": "cudagraph"}, "cudagraph runs on cuda"),
        ({"runtime": "eager", "target_latency": 0.6, "s": 4}, "leave s"),
        ({"runtime": "eager", "target_latency": 0.01, "mode": "g-ghost"}, "can't be reached"),
        ({"runtime": "eager", "target_latency": 0.6, "mode": "auto", "calibration": "data-free"},
         "can't be fitted without data"),
        ({"runtime": "eager", "target_params": 0.6}, "target_params given beside runtime"),
        ({"runtime": "eager", "target_macs": 0.6, "calibration": torch.rand(4, 3, 12, 12)},
         "target_macs given beside runtime"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_said(network: nn.Module, options: dict, sentence: str) -> None:
    with pytest.raises(SettingsError, match=sentence):
        ghostify.plan(network, **SIZE, **options)


def test_a_plan_is_followed_without_a_clock(network: nn.Module) -> None:
    plan = ghostify.plan(network, **SIZE)
    with pytest.raises(SettingsError, match="beside a plan"):
        ghostify.convert(network, plan, runtime="eager")
