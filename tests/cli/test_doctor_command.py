"""`ghostify doctor`."""

from __future__ import annotations

import json

import torch


def test_it_prints_versions_and_runtimes(run):
    outcome = run("doctor")
    assert outcome.code == 0 and outcome.err == ""
    assert torch.__version__ in outcome.out and "onnxruntime" in outcome.out
    assert "memory format:" in outcome.out


def test_json_on_stdout_is_all_there_is_on_stdout(run):
    assert json.loads(run("doctor", "--json", "-").out)["schema"] == "ghostify.doctor/1"


def test_markdown_is_for_bug_reports(run, folder):
    assert run("doctor", "--markdown", "d.md").code == 0
    assert (folder / "d.md").read_text().startswith("## ghostify ")
