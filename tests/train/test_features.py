"""Where student and teacher are compared, and that looking changes nothing."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ghostify
from ghostify.train.features import Observed, logits_of
from ghostify.train.points import agreeing, find_points


def test_points_of_c_ghost_are_the_ends_of_blocks_with_ghost_modules():
    teacher = ghostify.build("resnet20-cifar")
    points = find_points(ghostify.convert(teacher, s=2), teacher)
    assert [p.name for p in points] == [
        "conv1", *(f"layer{i}.{j}.conv2" for i in (1, 2, 3) for j in range(3))
    ]  # fmt: skip


def test_layers_that_are_kept_have_no_point():
    teacher = ghostify.build("resnet20-cifar")
    student = ghostify.convert(teacher, s=2, only="layer2")
    assert {p.name.split(".")[0] for p in find_points(student, teacher)} == {"layer2"}


@pytest.mark.parametrize("mode", ["g-ghost", "cg-ghost"])
def test_rebuilt_stages_are_compared_at_their_ends(mode):
    teacher = ghostify.build("resnet20-cifar")
    student = ghostify.convert(teacher, mode=mode)
    points = agreeing(find_points(student, teacher), student, teacher, torch.rand(1, 3, 32, 32))
    assert [p.name for p in points if p.side == "output"][:3] == ["layer1", "layer2", "layer3"]


def test_a_network_that_was_converted_twice_is_compared_with_its_first_original():
    teacher = ghostify.build("resnet20-cifar")
    student = ghostify.convert(
        ghostify.convert(teacher, mode="g-ghost", only="layer3"), s=2, only="layer1"
    )
    names = {p.name.split(".")[0] for p in find_points(student, teacher)}
    assert names == {"layer1", "layer3"}


def test_another_network_has_no_points_even_where_names_are_the_same():
    student = ghostify.convert("resnet20-cifar", s=2)
    assert find_points(student, ghostify.build("resnet56-cifar")) == ()
    assert find_points(student, nn.Conv2d(3, 10, 3)) == ()
    assert find_points(ghostify.build("resnet20-cifar"), ghostify.build("resnet20-cifar")) == ()


def test_what_is_seen_is_what_flows(pair):
    student, teacher = pair
    points = find_points(student, teacher)
    assert [p.name for p in points] == ["stem", "body.0", "last"]
    x = torch.randn(2, 3, 16, 16)
    watched = Observed(teacher.eval(), [(p.teacher, p.side) for p in points])
    logits, (stem, body, last) = watched(x)
    by_hand = torch.relu(teacher.norm(teacher.stem(x)))
    assert torch.equal(stem, by_hand)
    assert torch.allclose(body, teacher.body(by_hand) + by_hand)
    assert torch.equal(last.flatten(1), teacher.last(body).mean((2, 3)))
    assert torch.equal(logits, teacher(x))


def test_a_released_network_has_no_hooks(pair):
    student, _ = pair
    keys = list(student.state_dict())
    network = Observed(student, [("last", "input"), ("norm", "output")]).release()
    assert network is student and list(student.state_dict()) == keys
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in student.modules())


def test_finding_points_leaves_modes_alone(pair):
    student, teacher = pair
    teacher.train()
    teacher.norm.eval()
    points = find_points(student, teacher)
    agreeing(points, student, teacher, torch.zeros(1, 3, 16, 16))
    assert teacher.training and not teacher.norm.training and teacher.body.training


def test_scores_are_found_in_what_networks_give():
    scores = torch.zeros(2, 3)
    for output in (scores, (scores, 1), {"logits": scores}, {"out": scores}):
        assert logits_of(output) is scores
    with pytest.raises(ghostify.GhostifyError, match="no class scores"):
        logits_of(torch.zeros(2, 3, 4, 4))
