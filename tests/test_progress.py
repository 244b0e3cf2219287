"""What long calls tell while they run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ghostify
from ghostify.deploy import benchmark
from ghostify.progress import Milestone


def network() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


def shares(told: list[str], word: str) -> list[float]:
    return [text.share for text in told if word in text and isinstance(text, Milestone)]


@pytest.fixture
def told() -> list[str]:
    return []


def test_choosing_fitting_and_tuning_tell_how_much_is_behind(told):
    ghostify.convert(
        network(), calibration=torch.rand(16, 3, 8, 8), target_macs=0.8, reconstruct_minutes=0.02,
        progress=told.append,
    )  # fmt: skip
    assert shares(told, "judging ghosts") == [0.0, 0.5]
    # Few images take two passes; the classifier's turn comes when all ghosts are fitted.
    assert shares(told, "fitting") == [0.0, 1.0] * 2
    steps = shares(told, "reconstructing the network")
    assert steps[0] < 0.1
    assert steps == sorted(steps)
    assert steps[-1] > 0.5


def test_measuring_tells_how_much_is_behind(told):
    benchmark(
        network(), ghostify.convert(network()), input_size=(3, 8, 8), seconds=0.2, precision=0,
        batch=[1, 2], layers=True, progress=told.append,
    )  # fmt: skip
    found = shares(told, "eager, batch")
    assert found == sorted(found)
    assert found[0] == 0
    assert 0.75 <= found[-1] <= 1


def test_an_export_tells_its_steps(told, tmp_path):
    images = torch.rand(6, 3, 8, 8)
    ghostify.export(
        network(), tmp_path / "net.pt2", batch=2, calibration=images, progress=told.append
    )
    assert told[:2] == [f"reading calibration images, {i} of 6" for i in range(2)]
    assert shares(told, "reading") == [pytest.approx(i / 6) for i in range(6)]
    assert told[6:8] == ["writing pt2", "opening pt2"]
    assert shares(told, "comparing") == [0, pytest.approx(1 / 3), pytest.approx(2 / 3)]


def test_evaluating_tells_how_much_is_behind(told):
    pytest.importorskip("lightning_fabric")
    data = torch.rand(6, 3, 8, 8), torch.zeros(6, dtype=torch.long)
    ghostify.evaluate(network(), data, batch_size=4, progress=told.append)
    assert shares(told, "evaluating") == [pytest.approx(4 / 6), 1]


def test_a_call_prints_nothing_by_itself(capfd):
    ghostify.convert(network(), calibration=torch.rand(8, 3, 8, 8))
    assert capfd.readouterr() == ("", "")


def test_print_is_a_progress(capsys):
    ghostify.convert(network(), calibration=torch.rand(8, 3, 8, 8), progress=print)
    assert "fitting 0\n" in capsys.readouterr().out
