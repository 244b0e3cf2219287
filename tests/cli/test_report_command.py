"""`ghostify report`."""

from __future__ import annotations

import json

import pytest

from ghostify.api import preview

NET = "resnet20-cifar"


def test_of_a_saved_folder_it_says_what_was_saved(run, saved):
    outcome = run("report", saved)
    assert outcome.code == 0 and outcome.out.startswith(f"{NET}, c-ghost\n")
    assert "19 layers replaced" in outcome.out


def test_of_a_saved_folder_the_json_is_that_of_the_conversion(run, saved):
    said = json.loads(run("report", saved, "--json", "-").out)
    report = preview(NET, input_size=(3, 32, 32))
    assert said == report.to_dict()


def test_of_a_model_it_says_what_it_costs(run):
    outcome = run("report", NET)
    assert outcome.out.startswith(f"{NET}\n") and "40.6M" in outcome.out
    assert "replaced" not in outcome.out


@pytest.mark.parametrize("model", ["saved", NET])
def test_it_counts_for_the_input_size_that_is_given(run, saved, model):
    model = saved if model == "saved" else model
    small = json.loads(run("report", model, "--json", "-").out)
    large = json.loads(run("report", model, "--input-size", "3x64x64", "--json", "-").out)
    assert (small["inputs"], large["inputs"]) == ("1x3x32x32", "1x3x64x64")
    assert large["before"]["acts"] == 4 * small["before"]["acts"]
    assert large["mode"] == small["mode"]


def test_layers_come_in_network_order_when_asked(run, saved):
    layers = [
        line.split()[0]
        for line in run("report", saved, "--order", "network").out.splitlines()[2:21]
    ]
    assert layers[0] == "conv1" and layers == sorted(layers)


def test_as_many_layers_are_shown_as_asked(run, saved):
    short, whole = (
        run("report", saved, "--layers", "3").out,
        run("report", saved, "--layers", "0").out,
    )
    assert "... and 16 more layers" in short and short.count("\nlayer") == 1 + 3
    assert "more layers" not in whole and whole.count("\nlayer") == 1 + 18


def test_quiet_writes_the_files_alone(run, saved, folder):
    outcome = run("report", saved, "-q", "--markdown", "r.md")
    assert outcome.out == outcome.err == "" and "19 layers" in (folder / "r.md").read_text()


def test_a_device_is_written_to_as_it_is(run, saved):
    assert run("report", saved, "-q", "--json", "/dev/null").code == 0
