"""`ghostify doctor`: what it tells of a machine, and what it keeps to itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch

import ghostify
from ghostify.deploy import RUNTIMES
from ghostify.deploy.environment import SCHEMA, Environment, FormatTime, collect_environment


def plain() -> Environment:
    return collect_environment(measure=False)


def test_it_has_the_versions_of_what_is_installed() -> None:
    versions = plain().versions
    assert versions["ghostify"] == ghostify.__version__
    assert versions["torch"] == torch.__version__
    assert versions["python"] and versions["torchvision"]


def test_it_says_of_each_runtime_whether_it_is_there_and_else_why_not() -> None:
    runtimes = plain().runtimes
    assert set(runtimes) == set(RUNTIMES)
    assert runtimes["eager"] is None
    assert torch.cuda.is_available() or runtimes["cudagraph"] == "needs cuda"


def test_extras_that_are_made_of_extras_need_what_those_need() -> None:
    extras = plain().extras
    assert set(extras["onnx"]) <= set(extras["openvino"])
    assert "ghostify" not in {name for names in extras.values() for name in names}


def test_it_names_neither_folders_nor_user() -> None:
    text = plain().to_json()
    assert str(Path.home()) not in text and str(Path.cwd()) not in text


def test_it_leaves_threads_and_chance_as_they_are() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    found = collect_environment()
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    assert [row.layer for row in found.formats] == ["3x3", "depth-wise", "1x1"]
    assert all(row.ratio > 0 for row in found.formats)


def test_its_advice_follows_the_measured_times() -> None:
    def advice(*ratios: float) -> str:
        rows = tuple(FormatTime("layer", ratio) for ratio in ratios)
        return replace(plain(), formats=rows).advice

    assert "channels_last is faster" in advice(0.8, 1.0)
    assert "contiguous is faster" in advice(1.3, 1.01)
    assert "measure it" in advice(0.8, 1.3) and "measure it" in advice(1.0, 1.0)
    assert "not measured" in advice()


def test_the_json_has_all_of_it() -> None:
    data = json.loads(plain().to_json())
    assert data["schema"] == SCHEMA
    assert {"versions", "extras", "runtimes", "system", "torch", "variables", "advice"} <= set(data)
