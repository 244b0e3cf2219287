"""The loss that callbacks add, beside that of a plain computation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ghostify
from ghostify.errors import ModelError
from ghostify.trainers.teaching import Teaching


def inputs_of(network: nn.Module, names: list[str], x: torch.Tensor) -> list[torch.Tensor]:
    seen = []
    handles = [
        network.get_submodule(name).register_forward_hook(lambda _, args, out: seen.append(args[0]))
        for name in names
    ]
    network(x)
    for handle in handles:
        handle.remove()
    return seen


def test_the_loss_is_the_mean_part_of_the_energy_that_is_missed_after_each_block(student, original):
    teaching = Teaching(student, original, 10.0)
    blocks = [point.student for point in teaching._points if point.side == "input"]
    assert len(blocks) == len(teaching._points) > 5
    teaching.attach()
    x = torch.rand(4, 3, 32, 32)
    student.train()
    student(x)
    loss = teaching.loss(0, 10)
    teaching.detach()
    pairs = zip(inputs_of(student, blocks, x), inputs_of(original.eval(), blocks, x), strict=True)
    parts = [((a - b).square().mean() / b.square().mean()).detach() for a, b in pairs]
    assert float(loss.detach()) == pytest.approx(10 * float(torch.stack(parts).mean()), rel=1e-4)


def test_the_loss_falls_to_zero_by_the_end(student, original):
    teaching = Teaching(student, original, 10.0)
    teaching.attach()
    student.train()
    found = []
    for step in (0, 5, 10):
        student(torch.ones(2, 3, 32, 32))
        found.append(float(teaching.loss(step, 10)) / teaching.last)
    assert found == pytest.approx([10, 5, 0])


def test_evaluation_is_no_training(student, original):
    teaching = Teaching(student, original, 10.0)
    teaching.attach()
    student.eval()(torch.rand(1, 3, 32, 32))
    with torch.no_grad():
        student.train()(torch.rand(2, 3, 32, 32))
    assert teaching.loss(0, 1) is None


def test_the_student_is_left_as_it_was(student, original):
    hooks = [
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs)
        for m in student.modules()
    ]
    teaching = Teaching(student, original, 10.0)
    teaching.attach()
    teaching.detach()
    assert hooks == [
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._forward_hooks_with_kwargs)
        for m in student.modules()
    ]


def test_another_teacher_is_refused(student):
    with pytest.raises(ModelError, match="not the network that the student was converted from"):
        Teaching(student, ghostify.build("vgg16-cifar"), 10.0)


def test_a_module_without_a_converted_network_is_refused(original):
    with pytest.raises(ModelError, match="Sequential holds no converted networks"):
        Teaching(nn.Sequential(original), original, 10.0)


def test_time_and_costs_are_those_of_bench_and_report(student, original):
    teaching = Teaching(nn.Sequential(student), original, 10.0)
    report = ghostify.report(student)
    assert teaching.costs()["ghostify/macs"] == report.after.macs
    assert teaching.costs()["ghostify/macs_fewer"] == report.ratios.macs
    times = teaching.times("eager", 0.0)
    assert times["ghostify/ms"] > 0 < times["ghostify/ms_original"]
    assert not teaching.times(None, 0.0)
