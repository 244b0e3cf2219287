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
