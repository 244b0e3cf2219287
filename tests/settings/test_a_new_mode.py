"""A new mode is two entries: its settings, and what decides for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch

import ghostify
from ghostify.cost import Count
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.planning import PLANNERS
from ghostify.passes.survey import Survey
from ghostify.plans import Plan
from ghostify.settings import MODES, CGhost, Settings


@dataclass(frozen=True)
class EveryOther(Settings):
    """C-Ghost in every other layer."""

    mode: ClassVar[str] = "every-other"

    s: int = 2

    @property
    def layers(self) -> CGhost:
        return CGhost(s=self.s)


def plan_every_other(survey: Survey, settings: EveryOther) -> tuple[Plan, Count]:
    whole, _ = plan_c_ghost(survey, settings.layers)
    chosen = tuple(item.name for item in whole.replaced[::2])
    plan, count = plan_c_ghost(survey, CGhost(s=settings.s, only=chosen))
    return Plan(settings, plan.replaced, plan.kept), count


@pytest.fixture(autouse=True)
def _with_the_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODES, EveryOther.mode, EveryOther)
    monkeypatch.setitem(PLANNERS, EveryOther, plan_every_other)


def test_a_mode_of_two_entries_converts_reports_saves_and_loads(tmp_path: Path) -> None:
    network = ghostify.build("resnet20-cifar").eval()
    converted = ghostify.convert(network, mode="every-other", s=4)
    ghosts = [n for n, m in converted.named_modules() if isinstance(m, ghostify.GhostConv2d)]
    assert ghosts[:3] == ["conv1", "layer1.0.conv2", "layer1.1.conv2"]
    report = ghostify.report(converted)
    assert report.mode == "every-other" and report.ratios.macs > 1.2
    x = torch.rand(1, 3, 32, 32)
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"))
    assert torch.equal(loaded(x), converted(x))


def test_its_options_are_checked_by_name() -> None:
    with pytest.raises(ghostify.GhostifyError, match="'t' is no setting of every-other"):
        ghostify.convert("resnet20-cifar", mode="every-other", t=4)
