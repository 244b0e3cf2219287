"""`ghostify convert` by the clock."""

from __future__ import annotations

import json

import pytest

NETS = """
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU(),
    )
"""


@pytest.fixture
def net(folder):
    (folder / "net.py").write_text(NETS)
    return ("net.py:build", "--input-size", "3x24x24")


def test_a_table_is_written_and_read_and_the_report_has_the_times(run, net, folder):
    asked = ("--runtime", "eager", "--latency-table", "times.json")
    outcome = run("convert", *net, *asked, "-o", "out", "--json", "report.json")
    assert outcome.code == 0, outcome.err
    table = json.loads((folder / "times.json").read_text())
    assert table["schema"] == "ghostify.latency/1" and len(table["times"]) == 3
    report = json.loads((folder / "report.json").read_text())
    assert report["times"]["conditions"]["runtime"] == "eager"
    assert all(row["time_before"] > 0 for row in report["layers"])
    # Made up: all layers save half of their time, on a machine that is not this one.
    table["processor"] = "a phone"
    table["times"] = {
        name: {form: 2.0 if form == "left" else 1.0 for form in ("left", "s=2, d=3", "s=4, d=3")}
        for name in table["times"]
    }
    table["networks"] = dict.fromkeys(table["networks"], 8.0)
    (folder / "times.json").write_text(json.dumps(table))
    outcome = run("convert", *net, *asked, "--target-latency", "0.7", "--dry-run")
    assert outcome.code == 0 and "3 layers replaced" in outcome.out
    assert "a phone" in outcome.out and "added up: 0.62" in " ".join(outcome.out.split())
    outcome = run("convert", *net, *asked, "--target-latency", "3ms", "-o", "none")
    assert outcome.code == 2 and "can't be reached" in outcome.err
    assert not (folder / "none").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--target-latency", "0.6"), "--target-latency given without --runtime"),
        (("--threads", "2", "--batch", "4"), "--threads, --batch given without --runtime"),
        (("--runtime", "eager", "--target-latency", "0"), "target-latency='0'"),
        (("--runtime", "eager", "--batch", "1" + "0" * 11), "batch=100000000000 does not fit"),
        (("--runtime", "eager", "--target-latency", "20min"), "target-latency='20min'"),
        (("--runtime", "eager", "--target-latency", "nanms"), "target-latency='nanms'"),
        (("--runtime", "earger"), "did you mean"),
        (("--runtime", "eager", "--latency-table", "no/where.json"), "no folder no"),
        (("--runtime", "eager", "--latency-table", "net.py"), "latency-table=net.py"),
    ],
)
def test_what_makes_no_sense_is_one_sentence_and_exits_2(run, net, folder, options, words):
    outcome = run("convert", *net, *options, "-o", "out")
    assert outcome.code == 2 and outcome.out == ""
    assert words in outcome.err and len(outcome.err.splitlines()) == 1
    assert sorted(path.name for path in folder.iterdir() if path.name != "__pycache__") == [
        "net.py"
    ]
