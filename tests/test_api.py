"""The verbs that users call."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import ghostify
from ghostify.errors import GhostifyError, ModelError, SettingsError
from ghostify.saving.history import history_of

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def outputs(model):
    with torch.no_grad():
        return model.eval()(IMAGES)


def test_every_public_name_is_there():
    for name in ghostify.__all__:
        assert getattr(ghostify, name) is not None
    assert set(dir(ghostify)) == set(ghostify.__all__)
    with pytest.raises(AttributeError, match="'ghostify' has no attribute 'convrt'"):
        _ = ghostify.convrt


def test_convert_gives_a_copy_and_leaves_the_original(small_net):
    before, text = state(small_net), str(small_net)
    converted = ghostify.convert(small_net, mode="c-ghost", s=2)
    assert type(converted) is type(small_net) and converted is not small_net
    assert type(converted.stem) is ghostify.GhostConv2d
    assert str(small_net) == text and equal(state(small_net), before)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.zero_()
    assert equal(state(small_net), before)


def test_convert_in_place_changes_the_network_itself(small_net):
    copied = ghostify.convert(small_net, s=2)
    assert ghostify.convert_(small_net, s=2) is small_net
    assert type(small_net.stem) is ghostify.GhostConv2d
    assert equal(state(small_net), state(copied))
    assert ghostify.report(small_net) == ghostify.report(copied)


@pytest.mark.parametrize(
    "options", [{"s": 0}, {"keep": "nothing"}, {"mode": "x"}, {"input_size": (9, 32, 32)}]
)
def test_convert_in_place_changes_nothing_where_it_refuses(small_net, options):
    before, text = state(small_net), str(small_net)
    with pytest.raises(GhostifyError):
        ghostify.convert_(small_net, **options)
    assert str(small_net) == text and equal(state(small_net), before)
    assert "_ghostify" not in small_net.__dict__


def test_s_1_is_the_identity_bit_for_bit(small_net):
    converted = ghostify.convert(small_net, s=1)
    assert str(converted) == str(small_net) and equal(state(converted), state(small_net))
    assert torch.equal(outputs(converted), outputs(small_net))


def test_a_network_may_be_named():
    assert type(ghostify.convert("resnet20-cifar", s=2).conv1) is ghostify.GhostConv2d
    assert ghostify.plan("resnet20-cifar") == ghostify.plan(ghostify.build("resnet20-cifar"))
    assert ghostify.report("resnet20-cifar").before.params == 269_722


def test_a_plan_is_what_convert_does(small_net):
    options = {"s": {"last": 4, "*": 2}, "d": 5, "keep": "stem", "input_size": (3, 40, 40)}
    plan = ghostify.plan(small_net, **options)
    converted = ghostify.convert(small_net, **options)
    ghosts = {
        name: (module.s, module.d)
        for name, module in converted.named_modules()
        if isinstance(module, ghostify.GhostConv2d)
    }
    assert {item.name: (item.s, item.d) for item in plan.replaced} == ghosts
    report = ghostify.report(small_net, input_size=(3, 40, 40), plan=plan)
    assert report == ghostify.report(converted)
    measured = ghostify.count(converted, input_size=(3, 40, 40)).total
    assert report.after == measured
    assert report.before == ghostify.count(small_net, input_size=(3, 40, 40)).total


def test_a_plan_changes_nothing(small_net):
    before, text = state(small_net), str(small_net)
    ghostify.plan(small_net, s=2)
    assert str(small_net) == text and equal(state(small_net), before)


def test_a_row_that_was_taken_out_of_a_plan_is_not_converted(small_net):
    plan = ghostify.plan(small_net, s=2)
    fewer = type(plan).from_dict({**plan.to_dict(), "replaced": plan.to_dict()["replaced"][1:]})
    converted = ghostify.convert(small_net, fewer)
    assert type(converted.stem) is nn.Conv2d and type(converted.last) is ghostify.GhostConv2d
    report = ghostify.report(converted)
    assert [row.name for row in report.replaced] == ["body.0", "last"]
    given = ghostify.count(converted, input_size=(3, 224, 224)).total
    assert report.after == given


def test_an_s_that_was_edited_in_a_plan_is_followed(small_net):
    data = ghostify.plan(small_net, s=2).to_dict()
    data["replaced"][0]["s"] = 8
    converted = ghostify.convert(small_net, ghostify.Plan.from_dict(data))
    assert (converted.stem.s, converted.last.s) == (8, 2)


def test_a_plan_for_another_network_is_refused(small_net, make_small_net):
    plan = ghostify.plan(small_net, s=2)
    with pytest.raises(GhostifyError, match="'stem', which this network doesn't have"):
        ghostify.convert(nn.Sequential(nn.Conv2d(3, 16, 3)), plan)
    other = make_small_net(width=32)
    text = str(other)
    with pytest.raises(GhostifyError, match="'stem' is a Conv2d of"):
        ghostify.convert_(other, plan)
    assert str(other) == text


def test_options_beside_a_plan_are_refused(small_net):
    plan = ghostify.plan(small_net, s=2)
    with pytest.raises(SettingsError, match="s given beside a plan"):
        ghostify.convert(small_net, plan, s=4)


@pytest.mark.parametrize("wrong", [None, 5, [nn.Conv2d(3, 8, 3)], b"resnet18"])
@pytest.mark.parametrize("verb", ["convert", "convert_", "plan", "report"])
def test_what_is_no_network_is_refused(verb, wrong):
    with pytest.raises(ModelError):
        getattr(ghostify, verb)(wrong)


def test_an_input_that_the_network_cannot_take_is_refused(small_net):
    for given in ({"input_size": (1, 32, 32)}, {"example_inputs": torch.zeros(1, 4, 32, 32)}):
        with pytest.raises(ModelError, match=r"can't take an input of 1x[14]x32x32"):
            ghostify.convert(small_net, **given)


@pytest.mark.parametrize("size", [(), (0, 32, 32), (3, -1, 32), (3.0, 32, 32), ("3", 32, 32)])
def test_an_input_size_that_makes_no_sense_is_refused(small_net, size):
    with pytest.raises(SettingsError, match="input_size="):
        ghostify.plan(small_net, input_size=size)


def test_the_report_of_a_conversion_stays_with_the_network(small_net):
    converted = ghostify.convert(small_net, s=2)
    report = ghostify.report(converted)
    assert report.mode == "c-ghost"
    assert ghostify.report(copy.deepcopy(converted)) == report
    assert "_ghostify" not in str(converted.state_dict().keys())


def test_the_report_goes_along_with_pickle():
    converted = ghostify.convert("resnet20-cifar", s=2)
    again = pickle.loads(pickle.dumps(converted))
    assert ghostify.report(again) == ghostify.report(converted)
    assert torch.equal(outputs(again), outputs(converted))


def test_the_report_of_any_network_is_what_it_costs(small_net):
    report = ghostify.report(small_net, input_size=(3, 32, 32))
    assert report.mode == "" and report.before == report.after
    assert report.before == ghostify.count(small_net, input_size=(3, 32, 32)).total
    assert {row.name for row in report.rows} >= {"stem", "body.0", "last", "head"}


def test_a_report_for_another_input_counts_the_converted_network(small_net):
    converted = ghostify.convert(small_net, s=2)
    report = ghostify.report(converted, input_size=(3, 64, 64))
    assert report.after == ghostify.count(converted, input_size=(3, 64, 64)).total


def test_converting_twice_adds_up(small_net):
    once = ghostify.convert(small_net, only="stem")
    twice = ghostify.convert(once, only="last")
    assert type(once.last) is nn.Conv2d
    assert type(twice.stem) is type(twice.last) is ghostify.GhostConv2d
    assert [row.name for row in ghostify.report(twice).replaced] == ["last"]


def test_settings_of_another_mode_are_not_overruled(small_net):
    with pytest.raises(SettingsError, match="mode='g-ghost' given beside settings of c-ghost"):
        ghostify.convert(small_net, ghostify.CGhost(), mode="g-ghost")


def test_random_starts_depend_on_the_seed_alone(small_net):
    torch.manual_seed(1)
    one = ghostify.convert(small_net, init="random", seed=4)
    before = torch.get_rng_state()
    torch.manual_seed(2)
    same = ghostify.convert(small_net, init="random", seed=4)
    other = ghostify.convert(small_net, init="random", seed=5)
    assert equal(state(one), state(same)) and not equal(state(one), state(other))
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), before), "the global generator is left alone"


def test_the_calibration_stands_in_plan_and_recipe_without_its_images(small_net, tmp_path):
    images = torch.rand(8, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    asked = ghostify.Calibration(images, samples=6, seed=3, mean=(0.5, 0.5, 0.5))
    plan = ghostify.plan(small_net, s=2, calibration=asked, input_size=(3, 40, 40))
    assert plan.calibration == asked and plan.calibration.images is images
    written = ghostify.Plan.from_dict(plan.to_dict())
    assert written == plan and written.calibration.images is None
    converted = ghostify.convert(small_net, plan, input_size=(3, 40, 40))
    assert any("6 images" in note for note in ghostify.report(converted).notes)
    loaded = ghostify.load(ghostify.save(converted, tmp_path / "out"), small_net)
    kept = history_of(loaded).plans[-1].calibration
    assert kept == asked and kept.images is None


def test_short_forms_are_fields_of_the_calibration(small_net):
    images = torch.rand(8, 3, 40, 40)
    options = {"calibration": images, "calibration_samples": 4, "calibration_seed": 5}
    plan = ghostify.plan(small_net, s=2, input_size=(3, 40, 40), **options)
    assert plan.calibration == ghostify.Calibration(samples=4, seed=5)


@pytest.mark.parametrize("call", [
    lambda net, path: ghostify.load(5),
    lambda net, path: ghostify.load(None),
    lambda net, path: ghostify.load(path, model="resnet18"),
    lambda net, path: ghostify.save(net, None),
    lambda net, path: ghostify.save(None, path),
    lambda net, path: ghostify.save(net, path, source=5),
    lambda net, path: ghostify.convert(net, input_size=16),
    lambda net, path: ghostify.convert(net, example_inputs=5),
    lambda net, path: ghostify.convert(net, calibration=5),
])  # fmt: skip
def test_arguments_of_a_wrong_type_are_one_sentence(call, tmp_path):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.Conv2d(16, 32, 3))
    with pytest.raises(GhostifyError):
        call(net, tmp_path / "out")
    assert not list(tmp_path.iterdir())
