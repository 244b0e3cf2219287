"""`ghostify models`."""

from __future__ import annotations

import pytest
from torchvision.models import list_models

CIFAR = [f"resnet{depth}-cifar" for depth in (110, 20, 32, 44, 56)] + ["vgg16-cifar"]


def test_a_part_of_the_name_is_enough(run):
    assert run("models", "cifar").out.split() == CIFAR


def test_a_glob_pattern_matches_whole_names(run):
    names = run("models", "resnet*[0-9]").out.split()
    assert names == sorted(n for n in list_models() if n.startswith("resnet"))


def test_without_a_pattern_all_are_listed(run):
    names = run("models").out.split()
    assert {*CIFAR, "c-ghostnet", "g-ghostnet", *list_models()} <= set(names)
    assert len(names) == len(set(names))


def test_timm_models_have_their_prefix(run):
    pytest.importorskip("timm")
    assert "timm/resnet18" in run("models", "timm/resnet1*").out.split()


def test_no_match_is_said_and_exits_1(run):
    outcome = run("models", "zzz")
    assert outcome.code == 1 and outcome.out == "" and "'zzz'" in outcome.err
