from __future__ import annotations

import copy
import pickle

from torch import nn

import ghostify
from ghostify.saving.history import History, Source, history_of, remember, remember_source


def test_of_a_network_that_ghostify_has_not_met_nothing_is_known():
    assert history_of(nn.Conv2d(3, 8, 3)) == History()


def test_a_network_that_was_built_by_name_knows_its_name_and_arguments():
    model = ghostify.build("resnet20-cifar", {"num_classes": 7})
    assert history_of(model).source == Source("resnet20-cifar", {"num_classes": 7})


def test_a_conversion_adds_its_plan_and_keeps_the_source():
    model = ghostify.build("resnet20-cifar")
    once = ghostify.convert(model, only="layer1")
    twice = ghostify.convert(once, only="layer2")
    assert history_of(model).plans == ()
    assert [len(plan.replaced) for plan in history_of(twice).plans] == [6, 6]
    assert history_of(twice).source == history_of(model).source
    assert history_of(twice).report == ghostify.report(twice)


def test_a_history_goes_along_with_copies_and_pickles():
    model = nn.Conv2d(3, 8, 3)
    remember(model, History(Source("a:b", {"c": 1})))
    for again in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert history_of(again) == history_of(model)


def test_a_history_is_no_part_of_the_state_or_the_modules():
    model = nn.Conv2d(3, 8, 3)
    keys, text = list(model.state_dict()), str(model)
    remember_source(model, Source("a:b"))
    assert list(model.state_dict()) == keys and str(model) == text
    assert list(model.modules()) == [model]
