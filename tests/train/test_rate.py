"""The rate of Muon goes with the distance to the teacher, where none is given."""

from __future__ import annotations

import copy
import signal

import pytest
import torch

from ghostify.train import FinetuneSettings, finetune
from ghostify.train.settings import FAR, LEAST, RATES
from ghostify.tuning.losses import difference

SIZE = (3, 16, 16)
ALL = {"steps": 4, "batch_size": 16, "warmup": 0.0, "log_steps": 1, "augment": False}


def rates(student, data, **options) -> list[float]:
    """Of each step."""
    rows = []
    finetune(student, data, input_size=SIZE, **{**ALL, "progress": rows.append, **options})
    return [row.lr for row in rows]


@pytest.fixture
def near(pair):
    """A network whose weights differ a little from its original's."""
    teacher = pair[1]
    student = copy.deepcopy(teacher)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.mul_(1 + 0.05 * torch.randn(parameter.shape, generator=chance))
    return student


def test_it_is_the_part_by_which_the_scores_differ(near, pair, labelled):
    images = labelled[0][:16]
    found = rates(near, images, teacher=pair[1])
    with torch.no_grad():
        distance = float(difference(near.eval()(images), pair[1].eval()(images)).sqrt())
    assert LEAST < distance / FAR < 1
    assert found[0] == pytest.approx(RATES["muon"] * distance / FAR, rel=1e-4)


def test_parts_of_a_batch_find_about_the_same(near, pair, labelled):
    images = labelled[0][:16]
    whole, parts = (rates(near, images, teacher=pair[1], accumulate=n)[0] for n in (1, 2))
    assert parts == pytest.approx(whole, rel=0.1)


def test_a_network_that_is_its_teacher_has_the_least(pair, labelled):
    teacher = pair[1]
    found = rates(copy.deepcopy(teacher), labelled, teacher=teacher)
    assert found[0] == pytest.approx(LEAST * RATES["muon"])


@pytest.mark.parametrize(
    ("options", "wanted"),
    [({"lr": 0.007}, 0.007), ({"optimizer": "sgd"}, 0.04), ({"teacher": None}, 0.02)],
)
def test_what_is_given_or_has_no_teacher_stays(pair, labelled, options, wanted):
    found = rates(copy.deepcopy(pair[1]), labelled, **{"teacher": pair[1], **options})
    assert found[0] == pytest.approx(wanted)


def test_a_run_that_goes_on_keeps_the_rate_that_it_found(tmp_path, near, pair, labelled):
    whole = rates(near, labelled, teacher=pair[1], checkpoint_steps=1)

    def interrupt(row):
        if row.step == 2:
            signal.raise_signal(signal.SIGINT)

    rates(near, labelled, teacher=pair[1], output=tmp_path / "o", progress=interrupt)
    rest = rates(near, labelled, teacher=pair[1], output=tmp_path / "o", resume=True)
    assert rest == whole[2:]


def test_the_batch_norms_of_the_student_see_nothing_of_it(near, pair, labelled):
    """Statistics after one step are those of one batch."""
    students = [
        finetune(near, labelled[0][:16], teacher=pair[1], input_size=SIZE,
                 **{**ALL, "steps": 1, **options}).model
        for options in ({}, {"lr": 0.001})
    ]  # fmt: skip
    means = [student.norm.running_mean for student in students]
    assert torch.equal(*means)


def test_settings_without_a_teacher_have_the_whole_rate():
    assert FinetuneSettings().rate == RATES["muon"]
