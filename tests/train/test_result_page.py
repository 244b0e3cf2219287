"""The page of a tuning: its learning curves, those before a resume too."""

from __future__ import annotations

import torch

import ghostify
from ghostify.documents.page import Curve, Headlines
from ghostify.train import FinetuneSettings
from ghostify.train.journal import METRICS, Journal
from ghostify.train.result import LogRow


def row(step: int, loss: float) -> LogRow:
    return LogRow(step, 4, 0.5, 0.1, loss, loss, None, None, 10.0, 1.0)


def test_a_journal_keeps_the_rows_of_the_run_before_it(tmp_path) -> None:
    first = Journal(tmp_path, 0, METRICS)
    first.write(row(1, 3.0))
    first.write(row(2, 2.0))
    first.close()
    second = Journal(tmp_path, 1, METRICS)
    second.write(row(2, 1.5))
    second.close()
    assert [(r["step"], r["loss"]) for r in second.rows] == [(1.0, 3.0), (2.0, 1.5)]
    assert "kd" not in second.rows[0]


def test_a_line_of_the_file_that_a_person_broke_is_passed_over(tmp_path) -> None:
    Journal(tmp_path, 0, METRICS).close()
    file = tmp_path / "metrics.csv"
    file.write_text(file.read_text() + "1,0.5,fast,2.0,,,,10,,,\n")
    (kept,) = Journal(tmp_path, 1, METRICS).rows
    assert kept["loss"] == 2.0 and "lr" not in kept


def test_the_page_has_the_curves_the_result_and_what_was_saved(small_net) -> None:
    student = ghostify.convert(small_net, input_size=(3, 16, 16))
    data = torch.rand(8, 3, 16, 16), torch.arange(8) % 5
    settings = FinetuneSettings(steps=3, batch_size=4, log_steps=1, validate_steps=1)
    tuned = ghostify.finetune(student, data, settings, val=data)
    assert [r["step"] for r in tuned.log] == [1.0, 2.0, 3.0]
    page = tuned.page()
    curves = {s.title: s for s in page.sections if isinstance(s, Curve)}
    losses = curves["Loss"].lines[0]
    assert [x for x, _ in losses.points] == [1.0, 2.0, 3.0]
    assert tuned.last is not None and losses.points[-1][1] == tuned.last.loss
    assert "Validation: top-1 accuracy" in curves
    result, saved = (s for s in page.sections if isinstance(s, Headlines))
    assert result.items[0].value.exact == tuned.validation.top1.percent
    assert saved.title == "What the conversion saved"
