"""`ghostify convert` where all is well."""

from __future__ import annotations

import json
import re

import pytest
import torch

import ghostify
from ghostify.api import preview
from ghostify.verification import CHECKS

NET = "resnet20-cifar"


def test_it_prints_what_was_replaced_and_what_that_saves(run):
    outcome = run("convert", NET)
    assert outcome.code == 0 and outcome.err.startswith("ghostify: next: ")
    assert re.search(r"^layer3\.0\.conv2 +2 +3 .* 1\.97", outcome.out, re.MULTILINE)
    assert re.search(r"^params +270k +139k +1\.94$", outcome.out, re.MULTILINE)
    assert "19 layers replaced, 0 left as they are" in outcome.out


def test_it_saves_what_it_converted(run, folder):
    outcome = run("convert", NET, "--s", "4", "-o", "deep/er/out")
    assert outcome.code == 0 and outcome.err.startswith("ghostify: saved to deep/er/out\n")
    loaded = ghostify.load("deep/er/out")
    assert loaded.conv1.s == 4
    assert sorted(path.name for path in folder.iterdir()) == ["deep"]


def test_a_dry_run_says_the_same_and_writes_nothing(run, folder):
    said = run("convert", NET, "--dry-run", "-o", "out")
    assert list(folder.iterdir()) == []
    assert said.out == run("convert", NET, "-o", "out").out and said.err == ""


def test_quiet_prints_nothing(run, folder):
    outcome = run("convert", NET, "-q", "-o", "out")
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert (folder / "out" / "recipe.yaml").is_file()


def test_json_on_stdout_is_all_there_is_on_stdout(run, nets):
    outcome = run("convert", "nets.py:build", "--json", "-", "-o", "out")
    assert json.loads(outcome.out)["schema"] == "ghostify.report/1"
    assert "building 16" in outcome.err, "what the factory prints goes to stderr"


def test_markdown_on_stdout_is_all_there_is_on_stdout(run):
    out = run("convert", NET, "--markdown", "-").out
    assert out.startswith(f"## {NET}, c-ghost\n") and out.count("## ") == 1


def test_reports_go_to_files_and_the_table_to_the_terminal(run, folder):
    outcome = run("convert", NET, "--json", "r.json", "--markdown", "r.md")
    assert "x MACs" in outcome.out
    report = ghostify.Report.from_dict(json.loads((folder / "r.json").read_text()))
    assert report == preview(NET)
    assert (folder / "r.md").read_text() == report.to_markdown()
    assert sorted(path.name for path in folder.iterdir()) == ["r.json", "r.md"]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (("--s", "4", "--d", "5"), {"s": 4, "d": 5}),
        (("--s", "layer1=2", "--s", "*=4"), {"s": {"layer1": 2, "*": 4}}),
        (("--s", "4", "--s", "layer1=2"), {"s": {"layer1": 2, "*": 4}}),
        (("--keep", "stem", "--keep", "layer2.*"), {"keep": ("stem", "layer2.*")}),
        (("--only", "layer3"), {"only": "layer3"}),
        (("--linear",), {"linear": True}),
        (("--mode", "c-ghost"), {}),
    ],
)
def test_options_are_the_settings(run, options, settings):
    said = json.loads(run("convert", NET, *options, "--json", "-").out)
    assert said == preview(NET, **settings).to_dict()


@pytest.mark.parametrize(
    "text", ["s: {layer1: 4}\nkeep: [stem]\n", '{"s": {"layer1": 4}, "keep": "stem"}']
)
def test_settings_come_from_a_file_of_yaml_or_json(run, folder, text):
    (folder / "my.settings").write_text(text)
    said = json.loads(run("convert", NET, "--settings", "my.settings", "--json", "-").out)
    assert said == preview(NET, s={"layer1": 4}, keep="stem").to_dict()


def test_costs_are_for_the_input_size_that_is_given(run):
    said = json.loads(run("convert", NET, "--input-size", "3x48x48", "--json", "-").out)
    assert said["inputs"] == "1x3x48x48" and said["notes"] == []
    assert said == preview(NET, input_size=(3, 48, 48)).to_dict()


def test_model_args_reach_the_factory(run, nets):
    outcome = run("convert", "nets.py:build", "--model-args", '{"width": 40}', "-o", "out")
    assert outcome.code == 0
    loaded = ghostify.load("out", trust=True)
    assert loaded[0].out_channels == 40


def test_a_module_of_the_current_folder_is_found(run, nets):
    assert run("convert", "nets:build", "-q").code == 0


def test_weights_are_loaded_before_they_are_converted(run, folder):
    torch.manual_seed(3)
    network = ghostify.build(NET).eval()
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, "w.pt")
    assert run("convert", NET, "--weights", "w.pt", "--s", "1", "-o", "out").code == 0
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(ghostify.load("out").eval()(x), network(x))


def test_a_saved_folder_is_a_model_too(run, folder, saved):
    outcome = run("convert", saved, "--linear", "-o", "twice")
    assert outcome.code == 0 and "1 layer replaced" in outcome.out
    once, twice = ghostify.load(saved).eval(), ghostify.load("twice").eval()
    x = torch.rand(2, 3, 32, 32)
    assert twice(x).shape == (2, 10)
    assert torch.equal(twice.conv1(x), once.conv1(x))


def test_a_folder_can_be_converted_in_its_place(run, folder):
    run("convert", NET, "--only", "layer1", "-q", "-o", "out")
    assert run("convert", "out", "--only", "layer2", "-q", "-o", "out").code == 0
    assert len(list((folder / "out").glob("model-*.safetensors"))) == 1
    assert ghostify.load("out").layer1[0].conv1.s == ghostify.load("out").layer2[0].conv1.s == 2


def test_a_folder_named_like_a_model_is_taken_and_said(run):
    run("convert", NET, "-q", "-o", NET)
    outcome = run("report", NET)
    assert "c-ghost" in outcome.out and "taking the saved folder" in outcome.err


def test_a_model_is_not_hidden_by_an_unrelated_folder_of_its_name(run, folder):
    (folder / NET).mkdir()
    assert run("report", NET, "-q").code == 0


def test_code_that_a_saved_folder_names_runs_when_trusted_alone(run, folder, nets):
    run("convert", "nets.py:build", "-q", "-o", "out")
    refused = run("report", "out")
    assert refused.code == 2 and "--trust" in refused.err and "building" not in refused.err
    assert run("report", "out", "--trust").code == 0


def test_warnings_of_others_are_not_shown(run, nets):
    assert "business" not in run("convert", "nets.py:build", "-q").err


def test_the_self_check_says_a_line_for_each_check_and_exits_0(run, folder, monkeypatch):
    for slow in ("torch.compile", "torch.export", "ONNX"):
        monkeypatch.delitem(CHECKS, slow)
    outcome = run("convert", NET, "-q", "--self-check")
    assert outcome.code == 0 and outcome.out == ""
    lines = outcome.err.splitlines()
    assert [line.removeprefix("ghostify: self-check: ")[:13].strip() for line in lines] == list(
        CHECKS
    )
    assert all(" ok" in line for line in lines)


def test_a_failed_self_check_exits_1(run, monkeypatch):
    def fail(subject):
        raise ValueError("no good")

    def is_original(subject):
        return any("cheap" in name for name, _ in subject.model.named_modules())

    monkeypatch.setattr(
        "ghostify.verification.CHECKS", {"luck": lambda s: fail(s) if is_original(s) else ""}
    )
    outcome = run("convert", NET, "-q", "--self-check")
    assert outcome.code == 1 and outcome.out == ""
    assert (
        "self-check: luck" in outcome.err and "failed: " in outcome.err and "no good" in outcome.err
    )


def test_an_interrupt_ends_with_a_word_and_130(run, monkeypatch):
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ghostify.api.convert", interrupted)
    outcome = run("convert", NET)
    assert outcome.code == 130 and outcome.err.strip().endswith("nothing was written half")


def test_the_installed_command_pipes_plain_text(installed):
    outcome = installed("convert", NET, "--s", "2", COLUMNS="100")
    assert outcome.code == 0 and "\x1b" not in outcome.out + outcome.err
    *others, last = outcome.err.splitlines()
    assert all("compiled ops" in line for line in others), others  # a torchvision of another torch
    assert len(others) <= 1 and last.startswith("ghostify: next: ")


def test_a_program_is_saved_and_measured_where_nothing_builds_the_network(run, folder) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n\ndef build(): return nn.Conv2d(3, 32, 3)\n"
    )
    made = run("convert", "net.py:build", "--input-size", "3x16x16", "--program", "-o", "out")
    assert made.code == 0
    (folder / "net.py").unlink()
    outcome = run("report", "out", "--trust", "--input-size", "3x16x16", "--json", "-")
    assert outcome.code == 0
    assert json.loads(outcome.out)["after"]["macs"] > 0


def test_a_program_without_a_folder_is_refused(run) -> None:
    outcome = run("convert", "resnet20-cifar", "--program")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--program given without -o DIR" in outcome.err


def test_what_has_no_program_is_saved_without_one(run, folder) -> None:
    (folder / "net.py").write_text(
        "from torch import nn\n\nclass Odd(nn.Conv2d):\n    def forward(self, x):\n"
        "        x = super().forward(x)\n        return x if float(x.sum()) > 0 else -x\n\n"
        "def build(): return nn.Sequential(nn.Conv2d(3, 32, 3), Odd(32, 8, 1))\n"
    )
    outcome = run("convert", "net.py:build", "--input-size", "3x16x16", "--program", "-o", "out")
    assert outcome.code == 2
    assert "can't be saved as a program: leave out --program" in outcome.err
    assert sorted(path.name[:6] for path in (folder / "out").iterdir()) == [
        "README",
        "model-",
        "recipe",
    ]
