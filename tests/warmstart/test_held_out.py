"""Images that no fit sees: they choose how far it goes, judge it, and are reported."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader

import ghostify
from ghostify.warmstart.fit.held_out import PRIOR, RidgeChoices, split_spans
from ghostify.warmstart.fit.ridge import solve, unexplained_by
from ghostify.warmstart.fit.statistics import RegressionMoments


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def block(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]


def untrained() -> nn.Module:
    """A network that few small images can't tell anything of: 288 weights see 16 pixels."""
    torch.manual_seed(0)
    layers = [*block(3, 32), *block(32, 32), *block(32, 32)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8)).eval()


def distance(network: nn.Module, original: nn.Module, images: Tensor) -> float:
    with torch.no_grad():
        wanted = original(images)
        gap = network(images) - wanted
    return float(gap.square().sum() / (wanted - wanted.mean(0)).square().sum())


@pytest.mark.parametrize("mode", ["c-ghost", "g-ghost"])
@pytest.mark.parametrize("count", [1, 2, 4, 16, 64])
def test_few_images_never_leave_a_network_worse_than_its_cold_start(mode: str, count: int) -> None:
    original, fresh = untrained(), noise(64, 3, 4, 4, seed=1)
    options = {"input_size": (3, 4, 4), "mode": mode}
    if mode == "g-ghost":
        original = ghostify.build("resnet20-cifar").eval()
    cold = distance(ghostify.convert(original, **options), original, fresh)
    images = noise(count, 3, 4, 4, seed=2)
    warm = ghostify.convert(original, calibration=images, **options)
    assert distance(warm, original, fresh) <= 1.02 * cold


def test_the_fit_of_many_images_does_not_depend_on_those_held_out() -> None:
    torch.manual_seed(0)
    original = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()
    ).eval()
    images = noise(128, 3, 6, 6)
    found = []
    for held_out in (images[-16:], noise(16, 3, 6, 6, seed=9)):
        loader = DataLoader(torch.cat([images[:-16], held_out]), batch_size=32)
        found.append(ghostify.convert(original, calibration=loader, input_size=(3, 6, 6)))
    one, other = (network.state_dict() for network in found)
    assert all(torch.equal(one[name], other[name]) for name in one)
    errors = [[row.held_out for row in ghostify.report(network).rows] for network in found]
    assert errors[0] != errors[1]


def test_what_was_held_out_takes_a_worse_fit_back_and_says_so() -> None:
    original = untrained()
    alike = noise(1, 3, 4, 4).expand(12, -1, -1, -1) * 1e-3
    loader = DataLoader(torch.cat([alike, 30 * noise(4, 3, 4, 4, seed=3)]), batch_size=16)
    cold = ghostify.convert(original, input_size=(3, 4, 4))
    warm = ghostify.convert(original, calibration=loader, input_size=(3, 4, 4))
    notes = " ".join(ghostify.report(warm).notes)
    fresh = 30 * noise(64, 3, 4, 4, seed=4)
    if "taken back" in notes:
        states = warm.state_dict(), cold.state_dict()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[1])
    assert distance(warm, original, fresh) <= 1.02 * distance(cold, original, fresh)


def test_the_report_has_a_column_for_what_was_held_out_and_asks_for_more_images() -> None:
    original = untrained()
    warm = ghostify.convert(original, calibration=noise(16, 3, 4, 4), input_size=(3, 4, 4))
    report = ghostify.report(warm)
    assert all(row.held_out is not None for row in report.rows)
    assert "held out" in report.to_markdown()
    assert any("give more calibration images" in note for note in report.notes)


def test_a_dead_layer_says_dead_in_the_report_of_a_saved_network(tmp_path) -> None:
    torch.manual_seed(0)
    original = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)
    ).eval()
    nn.init.zeros_(original[2].weight)
    warm = ghostify.convert(original, calibration=noise(32, 3, 8, 8), input_size=(3, 8, 8))
    ghostify.save(warm, tmp_path / "out")
    loaded = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
    for report in (
        ghostify.report(warm), ghostify.report(ghostify.load(tmp_path / "out", loaded))
    ):  # fmt: skip
        (row,) = (row for row in report.rows if row.name == "2")
        assert row.dead and row.error is None
        assert "dead" in report.to_markdown()


@pytest.mark.parametrize("rows", [6, 24, 400])
def test_a_ridge_is_as_strong_as_serves_others_and_without_others_the_weakest(rows: int) -> None:
    truth = noise(1, 4, 20)

    def moments(count: int, seed: int) -> RegressionMoments:
        x = noise(1, count, 20, seed=seed)
        y = x @ truth.mT + noise(1, count, 4, seed=seed + 1)
        return RegressionMoments.of(1, 20, 4, [(x, y)])

    fitted, others, ridges = moments(rows, 3), moments(40, 5), (1e-3, 1e-1, 10.0, PRIOR)
    prior, choices, layer = 0.7 * truth.double(), RidgeChoices(), nn.Identity()
    chosen = choices.solve(layer, fitted, others, ridges, prior)
    left = float(unexplained_by(others, chosen).sum())
    assert left <= 1.1 * min(
        float(unexplained_by(others, solve(fitted, ridge, prior)).sum()) for ridge in ridges[:3]
    ) * (1 + 1e-6)
    nobody = RegressionMoments(1, 20, 4)
    again = choices.solve(layer, fitted, nobody, ridges, prior)
    assert torch.equal(again.weight, chosen.weight)
    alone = RidgeChoices().solve(layer, fitted, nobody, ridges, prior)
    assert torch.equal(alone.weight, solve(fitted, ridges[0], prior).weight)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.data())
def test_every_image_is_fitted_to_or_held_out(sizes: list[int], data: st.DataObject) -> None:
    ends = torch.tensor(sizes).cumsum(0).tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    fitted = data.draw(st.integers(1, ends[-1]))
    before, after = split_spans(spans, fitted, True)
    seen = [range(*span) for span in before], [range(*span) for span in after]
    assert [i for part in seen[0] for i in part] == list(range(fitted))
    assert [i for part in seen[1] for i in part] == list(range(fitted, ends[-1]))
    whole = split_spans(spans, fitted, False)
    assert sorted([*whole[0], *whole[1]]) == spans
