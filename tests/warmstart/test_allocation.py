"""An s for each layer: the best choice within a budget, of losses that are true of the network."""

from itertools import pairwise, product

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ghostify
from ghostify.api import decide, preview
from ghostify.data.spool import Spool
from ghostify.errors import SettingsError
from ghostify.warmstart.allocation import stages
from ghostify.warmstart.allocation.budget import Option, allocate
from ghostify.warmstart.allocation.sensitivity import gradients, looks_at


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def spooled(images: Tensor) -> Spool:
    spool = Spool()
    spool.append(images)
    return spool


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()  # fmt: skip


layers = st.lists(
    st.lists(
        st.tuples(st.integers(1, 40), st.floats(0, 10)), min_size=1, max_size=3
    ),
    min_size=1, max_size=5,
)  # fmt: skip


@given(layers, st.integers(-1, 150))
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_best_of_all(found: list[list[tuple[int, float]]], budget: int) -> None:
    table = {
        str(i): [Option(s, macs, loss) for s, (macs, loss) in enumerate(some, 1)]
        for i, some in enumerate(found)
    }
    combinations = [
        combination
        for combination in product(*table.values())
        if sum(option.cost for option in combination) <= budget
    ]
    chosen = allocate(table, budget)
    if not combinations:
        assert chosen is None
        return
    assert chosen is not None
    taken = [next(o for o in table[name] if o.s == s) for name, s in chosen.items()]
    assert sum(option.cost for option in taken) <= budget
    least = min(sum(option.loss for option in some) for some in combinations)
    # What is equal but for rounding is equal (numerics/ranking.py), of losses of up to 50 here.
    assert sum(option.loss for option in taken) == pytest.approx(least, rel=1e-5, abs=1e-8)


def test_gradients_are_those_of_each_image_alone() -> None:
    net, x = network(), noise(6, 3, 8, 8)
    found = gradients(net, ["2"], spooled(x), seed=3)["2"]
    generator = torch.Generator().manual_seed(3)
    drawn = torch.multinomial(net(x).detach().softmax(1), 1, generator=generator)[:, 0]
    total = torch.zeros(16)
    for image, label in zip(x, drawn, strict=True):
        maps = net[:3](image[None]).detach().requires_grad_()
        # A copy: what follows works in place.
        F.cross_entropy(net[3:](maps * 1), label[None]).backward()
        assert maps.grad is not None
        total += maps.grad.square().sum((0, 2, 3))
    assert torch.allclose(found.float(), total / len(x), rtol=1e-4)


def test_layers_without_part_in_the_output_are_left_out() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.idle = network(), nn.Conv2d(3, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.idle(x)
            return self.net(x)

    assert set(gradients(Idle().eval(), ["net.0", "idle"], spooled(noise(2, 3, 8, 8)), 0)) == {
        "net.0"
    }


def test_what_is_seen_in_maps_does_not_depend_on_how_many_fit_into_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    net, x = network(), spooled(noise(9, 3, 8, 8))
    kernels = {"0": 3, "2": 3, "5": 3}
    at_once = {name: (sums, rows) for name, sums, rows in looks_at(net, kernels, x, 0)}
    monkeypatch.setattr("ghostify.warmstart.allocation.sensitivity.LARGEST", 1)
    one_by_one = {name: (sums, rows) for name, sums, rows in looks_at(net, kernels, x, 0)}
    assert list(at_once) == list(one_by_one) == list(kernels)
    for name in kernels:
        assert at_once[name][1] == one_by_one[name][1] == 9 * 64
        assert torch.allclose(at_once[name][0].cross, one_by_one[name][0].cross)


def test_the_target_is_kept_and_layers_that_matter_less_give_more() -> None:
    net, x = network(), noise(64, 3, 12, 12)
    with torch.no_grad():
        net[5].weight[:] = net[5].weight[:1]  # all maps alike: its ghosts cost nothing
        net[5].bias[:] = net[5].bias[:1]
    decided = decide(net, target_macs=0.5, calibration=x, input_size=(3, 12, 12))
    assert decided.report.after.macs <= 0.5 * decided.report.before.macs
    assert decided.plan.settings.s["5"] == 4
    assert decided.plan.settings.s["2"] < 4


@pytest.mark.parametrize(("s", "largest"), [(2, 4), (3, 4), (4, 8)])
def test_no_layer_gets_more_than_twice_what_would_do_for_all(s: int, largest: int) -> None:
    torch.manual_seed(0)
    widths = (3, 64, 64, 64, 64)
    layers = [nn.Conv2d(n, m, 3, padding=1) for n, m in pairwise(widths)]
    net, x = nn.Sequential(*layers).eval(), noise(32, 3, 12, 12)
    for_all = ghostify.report(ghostify.convert(net, s=s, input_size=(3, 12, 12)))
    target = for_all.after.macs / for_all.before.macs
    decided = decide(net, target_macs=target, calibration=x, input_size=(3, 12, 12))
    assert decided.report.after.macs <= for_all.after.macs
    assert max(decided.plan.settings.s.values()) == largest


def test_a_plan_is_what_a_conversion_follows() -> None:
    net, x = network(), noise(64, 3, 12, 12)
    options = {"target_macs": 0.6, "input_size": (3, 12, 12)}
    # A loader that can be read once only.
    once = (batch for batch in x.split(16))
    converted = ghostify.convert(net, calibration=once, calibration_samples=64, **options)
    assert ghostify.report(converted).after == preview(net, calibration=x, **options).after
    assert any("warm start from 64 images" in n for n in ghostify.report(converted).notes)


def test_any_output_will_do() -> None:
    class Maps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()[:7]

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"maps": self.net(x)}

    report = preview(
        Maps().eval(), target_macs=0.6, calibration=noise(8, 3, 12, 12), input_size=(3, 12, 12)
    )
    assert report.after.macs <= 0.6 * report.before.macs


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"target_macs": 0.1}, "can't be reached"),
        ({"target_macs": 1.5}, "between 0 and 1"),
        ({"target_macs": 0.6, "s": 4}, "leave s"),
        ({"target_macs": 0.6, "mode": "g-ghost"}, "can't be reached"),
        ({"target_macs": 0.6, "mode": "g-ghost", "ratio": 0.4}, "leave ratio"),
        ({"target_macs": 0.01, "mode": "cg-ghost"}, "can't be reached: the least is"),
        ({"target_params": 0.01}, "target_params=0.01 can't be reached: the least is"),
        ({"target_params": 0.6, "s": 4}, "leave s"),
        ({"target_params": True}, "target_params=True"),
        ({"mode": "auto", "calibration": None}, "chooses by what is asked for"),
        ({"target_macs": 0.6, "calibration": "data-free"}, "needs images"),
        ({"target_macs": 0.6, "calibration": None}, "given without calibration"),
    ],
)
def test_what_makes_no_sense_is_said(options: dict, sentence: str) -> None:
    given = {"calibration": noise(8, 3, 12, 12), "input_size": (3, 12, 12), **options}
    with pytest.raises(SettingsError, match=sentence):
        ghostify.plan(network(), **given)


def test_the_least_target_that_is_named_can_be_given() -> None:
    given = {"calibration": noise(8, 3, 12, 12), "input_size": (3, 12, 12)}
    with pytest.raises(SettingsError) as refused:
        ghostify.plan(network(), target_macs=0.05, **given)
    least = float(str(refused.value).split("everywhere ")[1].split()[0])
    assert ghostify.plan(network(), target_macs=least, **given).replaced


tables = st.lists(
    st.dictionaries(st.sampled_from(stages.RATIOS), st.integers(1, 30), min_size=1),
    min_size=1, max_size=3,
)  # fmt: skip


@given(tables, st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_choices_save_enough_and_no_more_than_needed(
    saved: list[dict[float, int]], least: int
) -> None:
    found = stages.within(saved, least)
    for choice in found:
        gains = [some[ratio] for some, ratio in zip(saved, choice, strict=True)]
        assert sum(gains) >= least
        for some, ratio, gain in zip(saved, choice, gains, strict=True):
            lower = max((r for r in some if r < ratio), default=None)
            assert lower is None or sum(gains) - gain + some[lower] < least
    most = sum(max(some.values()) for some in saved)
    assert bool(found) == (most >= least)


def test_the_climb_ends_on_the_top_of_an_even_hill_and_asks_once_each() -> None:
    choices = [(a / 8, 1 - a / 8) for a in range(1, 8)]
    asked: list[tuple[float, ...]] = []

    def loss(choice: tuple[float, ...]) -> float:
        asked.append(choice)
        return abs(choice[0] - 0.625)

    assert stages.climb(choices, loss) == (0.625, 0.375)
    assert len(asked) == len(set(asked)) <= stages.TRIES


def test_each_stage_gets_a_ratio_and_the_target_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "TRIES", 2)
    network = ghostify.build("resnet20-cifar").eval()
    decided = decide(
        network, mode="g-ghost", preset="cifar", target_macs=0.75, calibration=noise(8, 3, 32, 32)
    )
    plan, report = decided.plan, decided.report
    assert 0.65 < report.after.macs / report.before.macs <= 0.75
    assert {stage.name: stage.ratio for stage in plan.stages} == dict(plan.settings.ratio)


def test_fits_and_judgements_see_images_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "ENOUGH", 10)
    images = spooled(torch.arange(95.0).view(95, 1, 1, 1))
    fitted, judged = (
        set(torch.cat(list(p.batches(9))).flatten().tolist()) for p in stages.halves(images)
    )
    assert len(fitted) == len(judged) == 10
    assert not fitted & judged
    assert min(fitted | judged) < 5
    assert max(fitted | judged) > 70


def test_more_stages_than_can_be_listed_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "MOST_STAGES", 2)
    given = {"mode": "g-ghost", "target_macs": 0.75, "calibration": noise(8, 3, 32, 32)}
    with pytest.raises(SettingsError, match="up to 2 stages, and there are 3"):
        ghostify.plan("resnet20-cifar", **given)


def test_linear_layers_of_any_class_are_no_matter_of_the_choice() -> None:
    class OwnLinear(nn.Linear):
        pass

    net = network()
    net[9] = OwnLinear(16, 8)
    decided = decide(
        net, target_macs=0.6, linear=True, calibration=noise(8, 3, 12, 12), input_size=(3, 12, 12)
    )
    assert "9" not in decided.plan.settings.s
    assert decided.report.after.macs <= 0.6 * decided.report.before.macs


@pytest.mark.parametrize("mode", ["c-ghost", "auto"])
def test_where_no_layer_would_save_any_a_target_is_refused_for_that_reason(mode: str) -> None:
    net = nn.Sequential(nn.Conv2d(3, 3, 3)).eval()
    with pytest.raises(SettingsError, match=r"no layer .*would save any"):
        ghostify.convert(net, mode=mode, target_macs=0.5, calibration=torch.rand(8, 3, 8, 8))
