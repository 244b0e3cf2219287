from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import ghostify
from ghostify.errors import GhostifyError
from ghostify.plans import Kept, Plan, Replacement
from ghostify.settings import CGhost

text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=9)
counts = st.integers(1, 10**6)
odd = st.integers(0, 127).map(lambda half: 2 * half + 1)
# An s is no more than the outputs, and a layer is replaced once.
replacements = st.builds(
    lambda name, kind, s, d, i, more, kernel: Replacement(name, kind, s, d, i, s + more, kernel),
    *(text, text, counts, odd, counts, counts, st.tuples(counts, counts)),
)
plans = st.builds(
    Plan,
    settings=st.builds(CGhost, s=counts, keep=st.lists(text.filter(bool), max_size=2)),
    replaced=st.lists(replacements, max_size=3, unique_by=lambda row: row.name).map(tuple),
    kept=st.lists(st.builds(Kept, text, text, text), max_size=3).map(tuple),
    untraced=st.lists(text, max_size=2).map(tuple),
)


@given(plans)
def test_a_plan_goes_to_json_and_yaml_and_back(plan):
    assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan
    assert Plan.from_dict(yaml.safe_load(yaml.safe_dump(plan.to_dict()))) == plan


def test_the_plan_of_a_network_goes_there_and_back(small_net):
    plan = ghostify.plan(small_net, s={"stem": 4, "*": 2}, keep="last")
    again = Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan


def test_a_plan_says_what_is_replaced_and_what_is_left_and_why(small_net):
    plan = ghostify.plan(small_net, s=2, keep="last")
    assert plan.replaced[0] == Replacement("stem", "Conv2d", 2, 3, 3, 16, (3, 3))
    assert Kept("last", "Conv2d", "not selected") in plan.kept


def test_a_plan_prints_what_it_decides(small_net):
    plan = ghostify.plan(small_net, s=2, keep="last")
    text = str(plan)
    assert text.startswith("Plan of c-ghost") and "2 layers replaced, 1 left as they are" in text
    assert "1 x not selected" in text and "Replacement(" not in text
    assert str(Plan.from_dict(plan.to_dict())) == text
    assert "<table" in plan._repr_html_()


@pytest.mark.parametrize("key", ["settings", "replaced", "kept", "untraced"])
def test_a_plan_that_lacks_a_key_is_refused(small_net, key):
    data = ghostify.plan(small_net, s=2).to_dict()
    del data[key]
    with pytest.raises(GhostifyError, match=f"no plan .*{key}"):
        Plan.from_dict(data)


@pytest.mark.parametrize("data", [5, None, [], {"settings": {}, "replaced": [5]}])
def test_what_is_no_plan_is_refused(data):
    with pytest.raises(GhostifyError):
        Plan.from_dict(data)
