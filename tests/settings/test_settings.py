from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import ghostify
from ghostify.errors import SettingsError
from ghostify.settings import (
    CGhost,
    make_settings,
    settings_from_dict,
    settings_from_json,
    settings_from_yaml,
)

patterns = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), min_size=1)
whole = st.integers(1, 1000)
odd = st.integers(0, 20).map(lambda k: 2 * k + 1)
names = st.lists(patterns, max_size=3).map(tuple) | patterns
settings = st.builds(
    CGhost,
    s=whole | st.dictionaries(patterns, whole, min_size=1, max_size=3),
    d=odd | st.dictionaries(patterns, odd, min_size=1, max_size=3),
    keep=names,
    only=names,
    linear=st.booleans(),
    divisor=whole,
    bias_mode=st.sampled_from(["full", "primary"]),
    init=st.sampled_from(["projection", "random"]),
    seed=st.integers(0, 2**31),
)


@given(settings)
def test_settings_go_to_json_and_yaml_and_back(given_settings):
    assert settings_from_dict(given_settings.to_dict()) == given_settings
    assert settings_from_json(given_settings.to_json()) == given_settings
    assert settings_from_yaml(given_settings.to_yaml()) == given_settings


@given(settings)
def test_the_order_of_patterns_survives(given_settings):
    again = settings_from_yaml(given_settings.to_yaml())
    if not isinstance(given_settings.s, int):
        assert list(again.s) == list(given_settings.s)


def test_the_data_is_plain(make_small_net):
    data = CGhost(s={"a": 2}, keep=["stem", "b.*"], only="c").to_dict()
    assert data["mode"] == "c-ghost" and data["keep"] == ["stem", "b.*"] and data["only"] == ["c"]
    assert yaml.safe_load(yaml.safe_dump(data)) == json.loads(json.dumps(data)) == data


def test_one_selector_needs_no_list():
    def predicate(name, module):
        return True

    assert CGhost(keep="stem", only=predicate) == CGhost(keep=("stem",), only=(predicate,))


def test_a_predicate_is_no_data():
    with pytest.raises(SettingsError, match="keep holds a predicate"):
        CGhost(keep=lambda name, module: True).to_dict()


def test_left_out_settings_have_the_defaults():
    assert settings_from_dict({}) == CGhost() == make_settings("c-ghost")
    assert (CGhost().s, CGhost().d) == (2, 3)


def test_settings_do_not_change():
    with pytest.raises(AttributeError):
        CGhost().s = 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"s": 0}, "s=0"),
        ({"s": 1.5}, "s=1.5"),
        ({"s": True}, "s=True"),
        ({"s": "2"}, "s='2'"),
        ({"s": None}, "s=None"),
        ({"s": {}}, "s is an empty mapping"),
        ({"s": {"a": 0}}, "s=0"),
        ({"s": {0: 2}}, "pattern 0"),
        ({"d": 2}, "d=2"),
        ({"d": -1}, "d=-1"),
        ({"d": float("nan")}, "d=nan"),
        ({"keep": 5}, "keep=5"),
        ({"keep": None}, "keep=None"),
        ({"only": [""]}, "only=''"),
        ({"only": ["a", 3]}, "only=3"),
        ({"linear": "no"}, "linear='no'"),
        ({"divisor": 0}, "divisor=0"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"bias_mode": "half"}, "bias_mode='half' is none of full, primary"),
        ({"init": ""}, "init=''"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_by_name(options, words):
    with pytest.raises(SettingsError, match=words):
        CGhost(**options)


def test_an_unknown_setting_gets_the_nearest_one():
    with pytest.raises(SettingsError, match=r"'kep' is no setting of c-ghost \(did you mean keep"):
        make_settings("c-ghost", kep="stem")


def test_an_unknown_mode_gets_the_modes():
    with pytest.raises(SettingsError, match=r"mode='c_ghost' is no mode \(did you mean c-ghost"):
        make_settings("c_ghost")


@pytest.mark.parametrize("text", ["", "5", "- s", "s: [", "1: 2", "\t"])
def test_text_that_holds_no_settings_is_refused(text):
    with pytest.raises(SettingsError):
        settings_from_yaml(text)
    with pytest.raises(SettingsError):
        settings_from_json(text)


def test_settings_hold_for_convert_and_plan(small_net):
    chosen = CGhost(s=4, keep="stem")
    assert ghostify.plan(small_net, chosen) == ghostify.plan(small_net, s=4, keep="stem")
    converted = ghostify.convert(small_net, chosen)
    assert (converted.last.s, type(converted.stem).__name__) == (4, "Conv2d")


def test_options_beside_settings_are_refused(small_net):
    with pytest.raises(SettingsError, match="d given beside settings"):
        ghostify.convert(small_net, CGhost(), d=5)


@pytest.mark.parametrize("wrong", [{"s": 2}, "c-ghost", 2])
def test_what_is_no_settings_is_refused(small_net, wrong):
    with pytest.raises(SettingsError, match="no settings: give one of CGhost"):
        ghostify.convert(small_net, wrong)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s: 2020-13-45", "s='2020-13-45'"),
        ("s: !!int foo", "tag"),
        ("s: " + "9" * 5000, "no YAML"),
        ("s: 0x" + "f" * 5000, "too large to show"),
        ("mode: [c-ghost]", r"mode=\['c-ghost'\] is no mode"),
        ("mode: {a: 1}", "mode={'a': 1} is no mode"),
        ("{mode: g-ghost, preset: [cifar]}", r"preset=\['cifar'\]"),
        ("[" * 20000, "nest"),
        ("{mode: cg-ghost, g: {mode: c-ghost}}", "g=CGhost.* give settings of g-ghost"),
        ("{mode: cg-ghost, g: {}, c: 5}", "c=5 are no settings"),
        ("{mode: cg-ghost, g: {}, c: {}, s: 2}", "'g' is no setting"),
        ("seed: " + "1" * 40, "seed=1{40} makes no sense"),
        ("d: 1000001", "d=1000001 makes no sense"),
        ("keep: {a: 1}", "keep={'a': 1}"),
        ("{mode: g-ghost, group_width: 1" + "0" * 400 + "}", "group_width=1"),
        ("{mode: g-ghost, ghost_act: 3}", "ghost_act=3"),
        ("{mode: g-ghost, divisor: " + "1" * 30 + "}", "divisor=1"),
        ("s: 2\ns: 4", "'s' is given twice"),
    ],
)
def test_a_text_that_no_reader_expects_is_refused_in_a_sentence(text, words):
    with pytest.raises(SettingsError, match=words) as caught:
        settings_from_yaml(text)
    assert len(str(caught.value)) < 400


def test_a_part_of_both_modes_needs_no_mode_and_may_be_left_out():
    both = settings_from_yaml("{mode: cg-ghost, g: {ratio: 0.4}}")
    assert (both.g.ratio, both.c) == (0.4, CGhost())
