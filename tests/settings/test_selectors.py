from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import ghostify
from ghostify.errors import SettingsError
from ghostify.settings.selectors import Ends, select, value_for

NAMES = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer10.0.conv1", "head.conv", "fc"]
LAYERS = {name: nn.Conv2d(1, 1, 1) for name in NAMES}
ENDS = Ends(stem=frozenset({"stem"}), head=frozenset({"fc"}))


def chosen(*selectors, layers=LAYERS):
    return select(selectors, layers, ENDS, "keep")


def test_a_name_means_the_layer():
    assert chosen("layer1.0.conv1") == {"layer1.0.conv1"}


def test_the_name_of_a_module_means_the_layers_inside_and_no_namesakes():
    assert chosen("layer1") == {"layer1.0.conv1", "layer1.0.conv2"}


def test_a_glob_pattern_means_what_fnmatch_says():
    for pattern in ("*conv1", "layer?.*", "[lf]*", "*"):
        assert chosen(pattern) == {name for name in NAMES if fnmatch.fnmatchcase(name, pattern)}


def test_several_selectors_mean_all_that_any_means():
    assert chosen("fc", "*.conv2") == {"fc", "layer1.0.conv2"}


def test_a_predicate_sees_name_and_module():
    layers = {"a": nn.Conv2d(1, 8, 3), "b": nn.Conv2d(1, 8, 1), "c": nn.Linear(2, 2)}
    found = chosen(
        lambda name, m: isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1), layers=layers
    )
    assert found == {"b"}


def test_stem_and_head_are_the_ends_of_the_graph_whatever_they_are_called():
    layers = {"stem": nn.Conv2d(1, 1, 1), "x": nn.Conv2d(1, 1, 1), "y": nn.Linear(1, 1)}
    ends = Ends(stem=frozenset({"x"}), head=frozenset({"y"}))
    assert select(["stem"], layers, ends, "keep") == {"x"}
    assert select(["head"], layers, ends, "keep") == {"y"}


def test_no_selector_means_nothing():
    assert chosen() == set()


@pytest.mark.parametrize(
    "selector", ["layer2", "layer1.", "conv", "LAYER1", lambda name, module: False]
)
def test_a_selector_that_matches_nothing_is_refused(selector):
    with pytest.raises(SettingsError, match="matches no layer"):
        chosen("fc", selector)


def test_the_refusal_names_option_value_and_the_nearest_names():
    with pytest.raises(
        SettingsError, match=r"^keep='layr1' matches no layer \(did you mean layer1"
    ):
        chosen("layr1")


def test_the_first_pattern_that_matches_holds():
    setting = {"layer1.0.conv1": 8, "layer1": 4, "*": 2}
    values = [value_for(name, setting, 3, ENDS) for name in NAMES]
    assert values == [2, 8, 4, 2, 2, 2]


def test_layers_that_no_pattern_matches_have_the_default():
    assert value_for("fc", {"layer1": 4}, 3, ENDS) == 3
    assert value_for("fc", {"head": 4}, 3, ENDS) == 4


@given(st.integers(1, 9), st.sampled_from(NAMES))
def test_a_number_holds_for_all(number, name):
    assert value_for(name, number, 3) == number


@pytest.mark.parametrize(
    ("option", "replaced"),
    [
        ({"keep": "stem"}, ["body.0", "last"]),
        ({"only": "body"}, ["body.0"]),
        ({"only": ["stem", "last"], "keep": "last"}, ["stem"]),
        ({"only": lambda name, module: module.stride == (2, 2)}, ["last"]),
        ({"linear": True, "only": "head"}, ["head"]),
    ],
)
def test_a_conversion_converts_what_is_selected(make_small_net, option, replaced):
    # The network's own `head` is its head, its own `stem` its stem.
    plan = ghostify.plan(make_small_net(classes=16), **option)
    assert [item.name for item in plan.replaced] == replaced
    assert {k.name for k in plan.kept} & set(replaced) == set()


def test_s_and_d_by_pattern_reach_the_layers(make_small_net):
    net = ghostify.convert(make_small_net(), s={"stem": 4, "last": 2, "*": 3}, d={"body": 5})
    assert (net.stem.s, net.body[0].s, net.last.s) == (4, 3, 2)
    assert (net.stem.d, net.body[0].d, net.last.d) == (3, 5, 3)


@pytest.mark.parametrize("option", ["s", "d"])
def test_a_pattern_of_s_or_d_that_matches_nothing_is_refused(small_net, option):
    with pytest.raises(SettingsError, match=f"{option}='nothing' matches no layer"):
        ghostify.plan(small_net, **{option: {"nothing": 3}})


@pytest.mark.parametrize("options", [{}, {"mode": "g-ghost"}])
def test_only_and_keep_that_leave_nothing_contradict_each_other(options: dict) -> None:
    name = "layer2" if options else "stem"
    with pytest.raises(SettingsError, match="takes away every"):
        ghostify.plan("resnet20-cifar", only=name, keep=name, **options)
