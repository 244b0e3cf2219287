"""Networks whose forward reads its data: counted whole in one run for real, and led by it after."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import ghostify
from ghostify.api import preview
from ghostify.cost.counting import look
from ghostify.cost.limits import Limits
from ghostify.cost.run import RealRun
from ghostify.errors import ModelError
from ghostify.graph.inputs import candidate_inputs
from ghostify.graph.meta_copy import meta_copy


class Reads(nn.Module):
    """Two convolutions, and between them a function that reads what the first gave."""

    def __init__(self, between: Callable[[Tensor], Tensor], after: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, after, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.between(self.first(x)))


def by_branch(x: Tensor) -> Tensor:
    return x * 2 if x.sum() > 0 else x


def by_item(x: Tensor) -> Tensor:
    return x[..., : 3 + int(x.abs().max().item())]


def by_list(x: Tensor) -> Tensor:
    return torch.cat([x] * len([v for v in x.flatten().tolist() if v > 0][:3]), dim=0)


def by_array(x: Tensor) -> Tensor:
    return x[: 1 + int(np.asarray(x).sum() > 0)]


def by_numpy(x: Tensor) -> Tensor:
    return x * float(x.detach().cpu().numpy().max())


def by_mask(x: Tensor) -> Tensor:
    kept = x.flatten(2)[:, :, x.flatten(2).mean((0, 1)) > 0]
    return kept[..., None]


def by_nonzero(x: Tensor) -> Tensor:
    rows = (x.mean((0, 1, 3)) > -1).nonzero()[:, 0]
    return x[:, :, rows]


def by_unique(x: Tensor) -> Tensor:
    return x[:, :, : len(torch.unique((x * 4).round()))]


def by_equal(x: Tensor) -> Tensor:
    return x if torch.equal(x, x + 1) else x[:, :, :5]


def by_caught_error(x: Tensor) -> Tensor:
    try:
        return x[:, :, : max(1, int(x.sum() > -1e9) * 6)]
    except RuntimeError:
        return x[:, :, :1]


WAYS = [by_branch, by_item, by_list, by_array, by_numpy, by_mask, by_nonzero, by_unique, by_equal,
        by_caught_error]  # fmt: skip


def flops(model: nn.Module, *inputs: Tensor) -> int:
    """Half of what PyTorch's own counter says of a real pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(*inputs)
    return counter.get_total_flops() // 2


@pytest.mark.parametrize("way", WAYS)
def test_a_forward_that_reads_its_data_is_counted_as_an_independent_counter_does(way: Any) -> None:
    net, x = Reads(way), torch.randn(1, 3, 12, 12)
    counted = ghostify.count(net, x)
    assert counted.how == "run" and counted.stopped is None
    assert counted.ran_on == "the inputs that were given"
    assert counted.shapes_end is not None and "test_real_runs.py:" in counted.shapes_end
    assert counted.total.macs == flops(net, x)


@pytest.mark.parametrize("way", WAYS)
def test_a_meta_copy_led_by_the_run_counts_the_same(way: Any) -> None:
    net = Reads(way)
    meta = meta_copy(net).eval()
    seen = look(net, meta, candidate_inputs(net, input_size=(3, 12, 12)))
    led = seen.follow(meta)
    assert led.error is None
    assert led.count() == seen.count()


@pytest.mark.parametrize("way", WAYS)
def test_a_conversion_is_counted_along_the_originals_way(way: Any) -> None:
    net, x = Reads(way), torch.randn(1, 3, 12, 12)
    plan = ghostify.plan(net, example_inputs=x)
    report = ghostify.report(net, x, plan=plan)
    assert report.how == "run" and report.missing is None
    assert [item.name for item in plan.replaced] == ["first", "second"]
    assert report.before.macs == flops(net, x)
    assert report.after.macs is not None and report.ratios.macs is not None
    # Where the way is the same, the converted network's own run says so too.
    if way in (by_branch, by_numpy, by_equal):
        assert report.after.macs == flops(ghostify.convert(net, example_inputs=x), x)


class Recogniser(nn.Module):
    """A text recogniser: convolutions, two-way LSTMs, and a decoder that stops at a blank."""

    def __init__(self, classes: int = 11) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, (2, 1), 1), nn.ReLU()
        )
        self.start = nn.LSTM(32 * 8, 24, bidirectional=True, batch_first=True)
        self.cell = nn.GRUCell(48, 24)
        self.classes = nn.Linear(24, classes)

    def forward(self, x: Tensor) -> Tensor:
        columns, _ = self.start(self.features(x).flatten(1, 2).transpose(1, 2))
        state, scores = columns.new_zeros(len(x), 24), []
        for column in columns.unbind(1):
            state = self.cell(column, state)
            scores.append(self.classes(state))
            if scores[-1].argmax(1).eq(-1).all():
                break
        return torch.stack(scores, 1)


def test_a_text_recogniser_is_counted_whole() -> None:
    net = Recogniser()
    counted = ghostify.count(net, input_size=(1, 32, 40))
    columns = 20
    lstm = columns * 2 * 4 * 24 * (256 + 24)
    decoder = columns * (3 * 24 * (48 + 24) + 24 * 11)
    convs = 16 * 16 * 20 * 9 + 32 * 8 * 20 * 9 * 16
    assert counted.how == "run" and counted.uncounted == {}
    assert counted.total.macs == convs + lstm + decoder


def layers(data: st.DataObject) -> nn.Module:
    width = data.draw(st.sampled_from([4, 8]))
    kinds: list[Callable[[], nn.Module]] = [
        lambda: nn.Conv2d(width, width, 3, padding=1, groups=data.draw(st.sampled_from([1, 2]))),
        lambda: nn.ConvTranspose2d(width, width, 2, 2),
        lambda: nn.BatchNorm2d(width),
        lambda: nn.GroupNorm(2, width),
        lambda: nn.AdaptiveAvgPool2d(5),
        lambda: nn.Sequential(nn.Conv2d(width, width, 1), nn.GELU()),
        lambda: Tokens(nn.TransformerEncoderLayer(width, 2, 8, batch_first=True)),
        lambda: Tokens(First(nn.LSTM(width, width // 2, 2, bidirectional=True, batch_first=True))),
        lambda: Tokens(First(nn.LSTM(width, width * 2, proj_size=width, batch_first=True))),
        lambda: Tokens(First(nn.GRU(width, width, batch_first=True))),
        lambda: Tokens(nn.Linear(width, width)),
        lambda: Tokens(Attention()),
    ]
    chosen = data.draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=5))
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *(make() for make in chosen))


class First(nn.Module):
    """The first of what a module gives."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        return self.part(x)[0]


class Attention(nn.Module):
    """Attention of a sequence to itself, without weights."""

    def forward(self, x: Tensor) -> Tensor:
        x = x[:, None]
        return nn.functional.scaled_dot_product_attention(x, x, x)[:, 0] @ x[:, 0].mT @ x[:, 0]


class Tokens(nn.Module):
    """A part that takes sequences, on a map's positions."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        out = self.part(x.flatten(2).transpose(1, 2))
        return out.transpose(1, 2).unflatten(2, x.shape[2:])


def assert_both_ways_agree(model: nn.Module, size: tuple[int, ...]) -> None:
    on_shapes = ghostify.count(model, input_size=size)
    assert on_shapes.how in ("shapes", "partial") and on_shapes.stopped is None
    (inputs,) = candidate_inputs(model, input_size=size)
    real = RealRun(model, inputs, Limits(), "")
    assert real.error is None
    counted = real.count()
    assert (counted.total, counted.layers) == (on_shapes.total, on_shapes.layers)
    assert counted.output == on_shapes.output


@settings(deadline=None, max_examples=25)
@given(st.data())
def test_shapes_and_a_run_for_real_count_the_same_of_random_networks(data: st.DataObject) -> None:
    assert_both_ways_agree(layers(data), (3, 6, 6))


@pytest.mark.parametrize(
    "name", ["shufflenet_v2_x0_5", "lraspp_mobilenet_v3_large", "vit_b_32", "resnet20-cifar"]
)
def test_shapes_and_a_run_for_real_count_the_same_of_real_networks(name: str) -> None:
    size = (3, 224, 224) if name.startswith("vit") else (3, 64, 64)
    assert_both_ways_agree(ghostify.build(name), size)


def test_a_run_for_real_leaves_the_network_and_all_randomness_as_they_were() -> None:
    seen: list[Any] = []

    class Net(Reads):
        def __init__(self) -> None:
            super().__init__(by_branch)
            self.register_buffer("calls", torch.zeros(()))
            self.norm = nn.BatchNorm2d(8)

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            noise = torch.rand(()) * random.random() * np.random.rand()
            self.first.weight.data.mul_(2)
            return self.norm(super().forward(x)) + noise

    net = Net().train()
    net.first.register_forward_hook(lambda *given: seen.append(given))
    net.first.weight.grad = torch.ones_like(net.first.weight)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    assert ghostify.count(net, input_size=(3, 8, 8)).how == "run"
    assert torch.equal(torch.get_rng_state(), states[0]) and random.getstate() == states[1]
    assert np.random.get_state()[1].tolist() == states[2]  # type: ignore[index]
    assert all(torch.equal(net.state_dict()[key], value) for key, value in before.items())
    assert all(module.training for module in net.modules())
    assert seen == [] and len(net.first._forward_hooks) == 1
    assert net.first.weight.grad is not None and torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_callers_input_decides_the_way_and_is_not_changed() -> None:
    class Net(Reads):
        def forward(self, x: Tensor) -> Tensor:
            x.mul_(1)
            x = self.first(x + 0) if x.sum() > 0 else x
            return x.add_(1)

    net = Net(by_branch)
    ones = torch.ones(1, 3, 8, 8)
    assert ghostify.count(net, ones).total.macs == 8 * 64 * 27
    assert ghostify.count(net, -ones).total.macs == 0
    assert torch.equal(ones, torch.ones(1, 3, 8, 8))


def test_sizes_are_tried_for_real_until_the_network_takes_one() -> None:
    net = nn.Sequential(Reads(by_branch), nn.Flatten(), nn.Linear(8 * 32 * 32, 3))
    counted = ghostify.count(net)
    assert (counted.inputs, counted.how) == ("1x3x32x32", "run")


def test_a_run_that_fails_too_leaves_the_total_unknown() -> None:
    def fails(x: Tensor) -> Tensor:
        if x.sum() > -1e9:
            raise NotImplementedError("no such op")
        return x

    report = ghostify.report(Reads(fails), input_size=(3, 8, 8))
    assert report.how == "partial" and report.before.macs is None
    assert report.missing is not None and "no such op" in report.missing
    assert any("the layers up to there have 13.8k MACs" in note for note in report.notes)
    assert "unknown" in str(report)
    assert preview(Reads(fails), input_size=(3, 8, 8)).ratios.macs is None  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("limits", "why"),
    [({"seconds": -1}, "takes over -1 seconds"), ({"free": 2**20}, "and 0.0 GB is free")],
)
def test_what_is_too_big_is_not_run(limits: dict[str, int], why: str) -> None:
    net = nn.Conv2d(3, 64, 3)
    (inputs,) = candidate_inputs(net, input_size=(3, 128, 128))
    run = RealRun(net, inputs, Limits(**limits), "")
    assert run.stopped is not None and why in run.stopped


def test_a_loaded_networks_way_is_that_of_its_own_weights(tmp_path: Any) -> None:
    net = Reads(by_branch)
    converted = ghostify.convert(net, input_size=(3, 12, 12))
    told = ghostify.report(converted)
    ghostify.save(converted, tmp_path / "out")
    loaded = ghostify.report(ghostify.load(tmp_path / "out", net))
    assert (loaded.before, loaded.after, loaded.how) == (told.before, told.after, "run")


def test_inference_mode_around_changes_nothing() -> None:
    net = nn.Sequential(Tokens(nn.Linear(3, 5)), Tokens(Attention()))
    outside = ghostify.count(net, input_size=(3, 6, 6))
    with torch.inference_mode():
        assert ghostify.count(net, input_size=(3, 6, 6)).total == outside.total


class Quitting(nn.Module):
    """A network whose forward ends the process, at once or where its data says so."""

    def __init__(self, on_data: bool):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.on_data = on_data

    def forward(self, x):
        x = self.conv(x)
        if not self.on_data or x.isfinite().all():
            sys.exit(7)
        return x


def test_a_forward_that_quits_is_an_error_and_quits_nothing():
    with pytest.raises(ModelError, match=r"test_real_runs.py:\d+: RuntimeError: .*sys.exit\(7\)"):
        ghostify.convert(Quitting(on_data=False), s=2, input_size=(3, 16, 16))


def test_a_forward_that_quits_by_its_data_is_not_counted_whole():
    counted = ghostify.count(Quitting(on_data=True), input_size=(3, 16, 16))
    assert counted.total.macs is None  # of the whole network nobody knows it
    assert "sys.exit(7)" in str(counted.stopped)
