"""Layers and stages side by side, by the clock: from tables that are made up, and as measured."""

from __future__ import annotations

import json
import tempfile
from functools import cache as cache_result
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ghostify
from ghostify.deploy import RUNTIMES
from ghostify.deploy.clock import Stopwatch
from ghostify.errors import SettingsError
from ghostify.plans import Plan
from ghostify.saving.history import history_of
from ghostify.settings import Auto

NAMES = ("layer1", "layer2", "layer3")


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return ghostify.build("resnet20-cifar").eval()


@cache_result
def signatures() -> str:
    """A table with the signatures of the network's layers and stages."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "table.json")
        network = ghostify.build("resnet20-cifar")
        ghostify.plan(network, mode="auto", runtime="eager", latency_table=path)
        return path.read_text()


def write_table(path: Path, stage: dict[str, float], layer: dict[str, float]) -> Path:
    """A table of another machine: every layer takes 1 ms, every stage 6, the whole network 20.

    Args:
        path: The file.
        stage: Milliseconds of a stage by ratio.
        layer: Of a layer by s.
    """
    data = json.loads(signatures())
    data["processor"] = "a phone"
    for signature in data["times"]:
        if signature.startswith("stage"):
            own = {"left": 6.0, **{f"ratio={ratio}": time for ratio, time in stage.items()}}
        else:
            own = {"left": 1.0, **{f"s={s}, d=3": time for s, time in layer.items()}}
        data["times"][signature] = own
    data["networks"] = dict.fromkeys(data["networks"], 20.0)
    path.write_text(json.dumps(data))
    return path


FAST_STAGES: dict[str, Any] = {
    "stage": {"0.25": 4.5, "0.5": 3.0, "0.75": 2.0}, "layer": {"2": 1.2, "4": 1.1},
}  # fmt: skip
FAST_LAYERS: dict[str, Any] = {"stage": {"0.5": 6.5}, "layer": {"2": 0.5, "4": 0.3}}
BOTH: dict[str, Any] = {"stage": {"0.5": 3.0}, "layer": {"2": 0.9}}


def test_devices_get_different_networks(network: nn.Module, tmp_path: Path) -> None:
    plans = [
        ghostify.plan(network, mode="auto", runtime="eager",
                      latency_table=write_table(tmp_path / f"{index}.json", **times))
        for index, times in enumerate((FAST_STAGES, FAST_LAYERS))
    ]  # fmt: skip
    assert [stage.name for stage in plans[0].stages] == [*NAMES] and not plans[0].replaced
    assert not plans[1].stages and len(plans[1].replaced) == 19
    assert {k.reason for k in plans[1].kept_stages} == {"no ghosts are faster in eager"}


def test_a_time_chooses_ratios_for_stages(network: nn.Module, tmp_path: Path) -> None:
    table = write_table(tmp_path / "phone.json", **FAST_STAGES)
    found = {}
    for target in (0.9, 0.6):
        plan = ghostify.plan(
            network, mode="g-ghost", runtime="eager", latency_table=table, target_latency=target
        )
        assert plan.times is not None and plan.times.predicted <= target + 1e-6
        found[target] = [stage.ratio for stage in plan.stages]
        assert plan.settings.mode == "g-ghost"
    assert sum(found[0.6]) > sum(found[0.9])
    with pytest.raises(SettingsError, match=r"can't be reached in eager.* 0.400 of"):
        ghostify.plan(
            network, mode="g-ghost", runtime="eager", latency_table=table, target_latency=0.3
        )


def test_images_say_which_stage_is_felt_least(network: nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():  # blocks that add nothing are lost without loss
        for block in list(network.layer2)[1:]:
            block.bn2.weight.zero_()
            block.bn2.bias.zero_()
    table = write_table(tmp_path / "phone.json", **BOTH)
    plan = ghostify.plan(
        network, mode="auto", runtime="eager", latency_table=table, target_latency=0.86,
        calibration=torch.rand(16, 3, 32, 32),
    )  # fmt: skip
    assert [stage.name for stage in plan.stages] == ["layer2"]


def test_a_mixture_goes_round(network: nn.Module, tmp_path: Path) -> None:
    table = write_table(tmp_path / "phone.json", **BOTH)
    options = {"mode": "auto", "runtime": "eager", "latency_table": table}
    made = ghostify.convert(network, **options, keep="layer1")
    (plan,) = history_of(made).plans
    assert [stage.name for stage in plan.stages] == ["layer2", "layer3"]
    assert [item.name for item in plan.replaced] == ["conv1"]
    assert isinstance(plan.settings, Auto)
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    loaded = ghostify.load(ghostify.save(made, tmp_path / "out"), network)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(loaded(x), made(x))
    report = ghostify.report(loaded)
    assert report.mode == "auto" and report.times == plan.times
    assert report.ratios.macs is not None and report.ratios.macs > 1


def test_only_names_layers_and_stages_alike(network: nn.Module, tmp_path: Path) -> None:
    table = write_table(tmp_path / "phone.json", **BOTH)
    plan = ghostify.plan(
        network, mode="auto", runtime="eager", latency_table=table, only=["layer1.0.conv1"]
    )
    assert [item.name for item in plan.replaced] == ["layer1.0.conv1"] and not plan.stages


def test_time_and_parameters_are_kept_to_at_once(network: nn.Module, tmp_path: Path) -> None:
    table = write_table(tmp_path / "phone.json", **FAST_LAYERS)
    options = {"runtime": "eager", "latency_table": table, "target_latency": 0.9, "only": "layer3"}
    budgets: tuple[dict[str, Any], ...] = ({}, {"target_params": 0.55})
    loose, tight = (ghostify.plan(network, **options, **more) for more in budgets)
    before = ghostify.count(network).total.params
    params = [ghostify.report(network, plan=plan).after.params for plan in (loose, tight)]
    assert params[1] <= 0.55 * before < params[0]
    assert tight.times is not None and tight.times.predicted is not None
    assert tight.target_params == 0.55 and tight.times.predicted <= 0.9


def test_macs_and_parameters_are_kept_to_at_once(network: nn.Module) -> None:
    plan = ghostify.plan(
        network, target_macs=0.7, target_params=0.6, calibration=torch.rand(8, 3, 32, 32)
    )
    report = ghostify.report(network, plan=plan)
    assert report.after.macs <= 0.7 * report.before.macs
    assert report.after.params <= 0.6 * report.before.params
    assert Plan.from_dict(plan.to_dict()) == plan


def test_stages_are_measured_once(
    network: nn.Module, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for form in RUNTIMES["eager"].forms:  # whichever of the memory formats happens to be faster
        monkeypatch.setattr(Stopwatch, "original", lambda self, own=form: (1.0, own))
        plan = ghostify.plan(network, mode="g-ghost", runtime="eager")
        (file,) = (cache / "latency").iterdir()
        texts.append(file.read_text())
    times = json.loads(texts[0])["times"]
    assert len([name for name in times if name.startswith("stage")]) == 3
    assert texts[0] == texts[1]
    assert plan.times is not None and {time.name for time in plan.times.layers} == {*NAMES}
