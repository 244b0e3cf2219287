"""`ghostify check`, the guard for CI."""

from __future__ import annotations

import json

NET = "resnet20-cifar"


def test_it_exits_0_without_a_word_where_all_bounds_are_met(run, saved):
    bounds = ("--min-params-ratio", "1.9", "--min-macs-ratio", "1.9", "--min-acts-ratio", "1")
    limits = ("--max-params", "138970", "--max-macs", "21.2e6")
    outcome = run("check", saved, *bounds, *limits)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


def test_it_exits_1_with_a_line_for_each_bound_missed(run, saved):
    bounds = ("--min-params-ratio", "1.9", "--min-macs-ratio", "3", "--max-params", "138969")
    outcome = run("check", saved, *bounds)
    assert outcome.code == 1 and outcome.err == ""
    assert outcome.out.splitlines() == [
        "missed: macs ratio is 1.9196, must be at least 3",
        "missed: params is 138,970, must be at most 138,969",
    ]


def test_a_model_is_converted_as_the_options_say(run):
    assert run("check", NET, "--min-macs-ratio", "3").code == 1
    assert run("check", NET, "--s", "4", "--min-macs-ratio", "3").code == 0
    assert run("check", NET, "--s", "4", "--keep", "layer*", "--min-macs-ratio", "3").code == 1


def test_settings_may_come_from_a_file(run, folder):
    (folder / "ci.yaml").write_text("mode: c-ghost\ns: 4\n")
    assert run("check", NET, "--settings", "ci.yaml", "--min-macs-ratio", "3").code == 0


def test_the_input_size_holds_for_a_saved_folder_too(run, saved):
    assert run("check", saved, "--max-macs", "22e6").code == 0
    assert run("check", saved, "--max-macs", "22e6", "--input-size", "3x64x64").code == 1


def test_json_has_each_bound_with_what_was_measured(run, saved):
    outcome = run("check", saved, "--json", "--min-macs-ratio", "3", "--max-params", "2e5")
    assert outcome.code == 1 and outcome.err == ""
    assert json.loads(outcome.out) == {
        "schema": "ghostify.check/1",
        "model": NET,
        "how": "shapes",
        "ok": False,
        "bounds": [
            {
                "bound": "min_macs_ratio",
                "limit": 3,
                "measured": 40551040 / 21123712,
                "met": False,
                "reason": None,
            },
            {
                "bound": "max_params",
                "limit": 2e5,
                "measured": 138970,
                "met": True,
                "reason": None,
            },
        ],
    }


READS_DATA = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, lost: bool = False):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)
        self.lost = lost

    def forward(self, x):
        x = self.first(x)
        if x.sum() > 0:
            x = x * 2
        if self.lost:
            raise RuntimeError("an op that is not there")
        return self.second(x)
"""


def test_a_network_that_reads_its_data_is_counted_whole(run, folder):
    (folder / "net.py").write_text(READS_DATA)
    asked = ("check", "net.py:Net", "--input-size", "3x224x224", "--keep", "*", "--json")
    outcome = run(*asked, "--max-macs", "100e6")
    assert outcome.code == 1
    found = json.loads(outcome.out)
    assert found["how"] == "run"
    assert [(b["measured"], b["met"]) for b in found["bounds"]] == [(1936392192, False)]
    assert run(*asked, "--max-macs", "1936392192").code == 0


def test_what_could_not_be_counted_whole_exits_1_and_says_why(run, folder):
    (folder / "net.py").write_text(READS_DATA)
    lost = ("--model-args", '{"lost": true}', "--input-size", "3x224x224")
    outcome = run("check", "net.py:Net", *lost, "--max-macs", "100e9")
    assert outcome.code == 1
    assert "macs is unknown" in outcome.out and "an op that is not there" in outcome.out
    outcome = run("check", "net.py:Net", *lost, "--min-macs-ratio", "1", "--json")
    (bound,) = json.loads(outcome.out)["bounds"]
    assert bound["met"] is False and bound["measured"] is None
    assert "an op that is not there" in bound["reason"]


def test_the_installed_command_exits_1(installed, saved):
    assert installed("check", saved, "--min-macs-ratio", "3").code == 1


def measured(monkeypatch, ratio, low, high):
    """Let a benchmark find these."""
    from ghostify import deploy
    from ghostify.deploy import Benchmark, NetworkTime

    row = NetworkTime("net", "eager", 1, 1, "", 7.0, 0.0, ratio, low, high, 9)
    asked = []

    def benchmark(*networks, **options):
        asked.append((len(networks), options))
        return Benchmark((row,), "3x32x32", "CPU time")

    monkeypatch.setattr(deploy, "benchmark", benchmark)
    return asked


def test_time_is_measured_beside_the_original(run, saved, monkeypatch):
    asked = measured(monkeypatch, 0.65, 0.63, 0.66)
    bound = ("--max-latency-ratio", "0.7", "--runtime", "onnxruntime", "--threads", "2")
    outcome = run("check", saved, *bound)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert asked[0][0] == 1 and asked[0][1]["runtime"] == "onnxruntime"
    assert asked[0][1]["threads"] == 2
    assert run("check", NET, "--s", "2", *bound).code == 0 and asked[1][0] == 2


def test_a_miss_that_noise_could_explain_is_none_and_says_so(run, saved, monkeypatch):
    bound = ("--max-latency-ratio", "0.7", "--runtime", "eager")
    measured(monkeypatch, 0.72, 0.69, 0.75)
    outcome = run("check", saved, *bound)
    assert (outcome.code, outcome.out) == (0, "")
    assert "0.72" in outcome.err and "noise could explain" in outcome.err
    measured(monkeypatch, 0.72, 0.71, 0.75)
    outcome = run("check", saved, *bound)
    assert outcome.code == 1 and outcome.err == ""
    text = "missed: latency ratio is 0.7200 (0.7100 to 0.7500), must be at most 0.7"
    assert outcome.out.splitlines() == [text]
    (row,) = json.loads(run("check", saved, *bound, "--json").out)["bounds"]
    assert row["interval"] == [0.71, 0.75] and row["met"] is False


def test_a_time_is_really_measured(run, saved):
    outcome = run("check", saved, "--max-latency-ratio", "100", "--runtime", "eager")
    assert outcome.code == 0


def test_a_clock_that_makes_no_sense_exits_2(run, saved):
    for options, words in {
        ("--max-latency-ratio", "0.7"): "needs --runtime",
        ("--runtime", "eager"): "--max-latency-ratio too",
        ("--max-latency-ratio", "0", "--runtime", "eager"): "above 0",
        ("--max-latency-ratio", "0.7", "--runtime", "eagre"): "runtime='eagre'",
        ("--max-latency-ratio", "0.7", "--runtime", "eager", "--threads", "0"): "threads=0",
        ("--max-macs", "1e9", "--threads", "2"): "without --runtime",
    }.items():
        outcome = run("check", saved, *options)
        assert outcome.code == 2 and outcome.out == ""
        assert words in outcome.err and len(outcome.err.splitlines()) == 1
