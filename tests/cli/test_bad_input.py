"""Bad input: one clear sentence on stderr, exit code 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import ghostify

NET = "resnet20-cifar"


def assert_refused(outcome, folder: Path, before: set[Path], *words: str) -> None:
    assert outcome.code == 2, outcome
    assert outcome.out == ""
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("ghostify: "), outcome.err
    assert lines[0].endswith((".", "?)")) and "Traceback" not in outcome.err
    for word in words:
        assert word in lines[0], (word, lines[0])
    assert set(folder.rglob("*")) == before


# What is given, and what the sentence must name: the user's own value, and the way out.
WORDS = [
    ((("resnet5O",)), ("'resnet5O'", "did you mean resnet50", "ghostify models")),
    ((("resnet2O-cifar",)), ("'resnet2O-cifar'", "resnet20-cifar")),
    ((("timm/resnet1",)), ("'resnet1'", "resnet18")),
    ((("",)), ("''", "no model")),
    ((("no_such_module:build",)), ("'no_such_module'", "No module named")),
    ((("no_such.py:build",)), ("no_such.py", "is no file")),
    ((("torch.nn:Conv3x",)), ("torch.nn", "'Conv3x'", "did you mean")),
    ((("os:getcwd",)), ("'os:getcwd'", "gave a str")),
    ((("torch.nn:Linear",)), ("in_features",)),
    ((NET, "--s", "0"), ("s=0", "1 or more")),
    ((NET, "--s", "-3"), ("s=-3",)),
    ((NET, "--s", "1.5"), ("--s=1.5", "whole number")),
    ((NET, "--s", "abc"), ("--s=abc", "whole number")),
    ((NET, "--s", "--3"), ("--s=--3", "whole number")),
    ((NET, "--s", "²"), ("--s=²", "whole number")),
    ((NET, "--s", "nan"), ("--s=nan",)),
    ((NET, "--s", "2", "--s", "4"), ("--s", "twice")),
    ((NET, "--s", "layer1.*=0"), ("s=0",)),
    ((NET, "--s", "layr1.*=4"), ("'layr1.*'", "matches no layer", "did you mean layer1")),
    ((NET, "--d", "2"), ("d=2", "odd")),
    ((NET, "--d", "-1"), ("d=-1", "odd")),
    ((NET, "--d", ""), ("--d=", "whole number")),
    ((NET, "--keep", "nope*"), ("keep='nope*'", "matches no layer")),
    ((NET, "--only", "layer9"), ("only='layer9'", "matches no layer", "did you mean")),
    ((NET, "--keep", ""), ("keep=''",)),
    ((NET, "--mode", "c-gost"), ("mode='c-gost'", "c-ghost")),
    ((NET, "--mode", ""), ("mode=''", "c-ghost")),
    ((NET, "--input-size", "big"), ("--input-size=big", "3x224x224")),
    ((NET, "--input-size", "3x0x32"), ("--input-size=3x0x32",)),
    ((NET, "--input-size", "3x²x32"), ("--input-size=3x²x32",)),
    ((NET, "--input-size", ""), ("--input-size=",)),
    ((NET, "--input-size", "1x32x32"), ("1x1x32x32", "cifar.py")),
    (("alexnet", "--input-size", "3x8x8"), ("1x3x8x8", "alexnet.py")),
    ((NET, "--model-args", "{"), ("--model-args", "JSON")),
    ((NET, "--model-args", "[1]"), ("--model-args=[1]", "object")),
    ((NET, "--model-args", '{"clases": 3}'), ("clases",)),
    ((NET, "--weights", "none.safetensors"), ("none.safetensors", "is no file")),
    ((NET, "--weights", "DEFAULT"), ("DEFAULT",)),
    (("resnet18", "--weights", "DEFALT"), ("'DEFALT'", "did you mean DEFAULT", "IMAGENET1K_V1")),
    ((NET, "--settings", "none.yaml"), ("none.yaml", "No such file")),
    ((NET, "--json", "no/such/report.json"), ("no/such/report.json", "there is no folder no/such")),
    ((NET, "--json", ""), ("--json",)),
    ((NET, "--json", "."), (".", "is a folder")),
    ((NET, "--markdown", "no/report.md"), ("no/report.md",)),
    ((NET, "--json", "-", "--markdown", "-"), ("--json and --markdown",)),
    ((NET, "--json", "same", "--markdown", "same"), ("same", "two places")),
    ((NET, "-o", "/dev/null/out"), ("/dev/null/out", "can't be written")),
    ((NET, "-o", "/proc/out"), ("/proc/out", "can't be written")),
]


@pytest.mark.parametrize(("args", "words"), WORDS, ids=[" ".join(args) for args, _ in WORDS])
def test_convert_refuses(run, folder, args, words):
    assert_refused(run("convert", *args), folder, set(), *words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("report", "resnet5O"), ("'resnet5O'", "resnet50")),
        (("report", NET, "--json", "no/such.json"), ("no/such.json",)),
        (("report", NET, "--input-size", "5x32x32"), ("1x5x32x32",)),
        (("check", NET), ("No bound", "--max-macs")),
        (("check", NET, "--min-macs-ratio", "nan"), ("--min-macs-ratio=nan",)),
        (("check", NET, "--min-params-ratio", "0"), ("--min-params-ratio=0.0",)),
        (("check", NET, "--min-acts-ratio", "-2"), ("--min-acts-ratio=-2.0",)),
        (("check", NET, "--max-params", "inf"), ("--max-params=inf",)),
        (("check", NET, "--max-macs", "1e9", "--s", "0"), ("s=0",)),
        (("check", NET, "--max-macs", "1e9", "--mode", "x"), ("mode='x'",)),
    ],
)
def test_the_other_commands_refuse(run, folder, args, words):
    assert_refused(run(*args), folder, set(), *words)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (("convert",), "MODEL"),
        (("convert", NET, "more"), "more"),
        (("convert", NET, "--nonsense"), "--nonsense"),
        (("convert", NET, "--s"), "--s"),
        (("check", NET, "--min-macs-ratio", "much"), "--min-macs-ratio"),
        (("report", NET, "--order", "alphabet"), "alphabet"),
        (("report", NET, "--layers", "-1"), "--layers"),
        (("convrt", NET), "convrt"),
        (("--nonsense",), "--nonsense"),
    ],
)
def test_a_wrong_usage_names_the_word_and_exits_2(run, args, named):
    outcome = run(*args)
    assert outcome.code == 2 and outcome.out == ""
    # A usage that typer refuses begins with how it is; a wrong value is one sentence.
    assert named in (outcome.err.partition("Error: ")[2] or outcome.err)
    assert "Traceback" not in outcome.err


def test_a_misspelt_command_gets_the_nearest_one(run):
    assert "Did you mean 'convert'?" in run("convrt", NET).err


def test_a_report_that_cannot_be_written_keeps_the_network_from_being_saved(run, folder):
    outcome = run("convert", NET, "-o", "out", "--json", "no/such.json")
    assert_refused(outcome, folder, set(), "no/such.json")


def test_a_folder_with_other_things_is_refused(run, folder):
    (folder / "mine").mkdir()
    (folder / "mine" / "thesis.tex").write_text("years")
    before = set(folder.rglob("*"))
    assert_refused(run("convert", NET, "-o", "mine"), folder, before, "mine", "other things")
    assert (folder / "mine" / "thesis.tex").read_text() == "years"


def test_a_file_in_the_way_of_the_folder_is_refused(run, folder):
    (folder / "out").write_text("a file")
    before = set(folder.rglob("*"))
    assert_refused(run("convert", NET, "-o", "out"), folder, before, "out is a file")
    assert_refused(run("convert", NET, "-o", "out/deeper"), folder, before, "out/deeper")


@pytest.mark.parametrize("command", ["convert", "report", "check"])
def test_a_folder_that_was_not_saved_by_ghostify_is_no_model(run, folder, command):
    (folder / "pictures").mkdir()
    (folder / "pictures" / "cat.jpg").write_bytes(b"")
    bounds = ("--max-macs", "1") if command == "check" else ()
    outcome = run(command, "pictures", *bounds)
    assert_refused(outcome, folder, set(folder.rglob("*")), "pictures", "recipe.yaml")


def test_a_half_written_folder_is_refused(run, folder, saved):
    half = folder / "half"
    half.mkdir()
    for file in saved.iterdir():
        (half / file.name).write_bytes(file.read_bytes())
    weights = next(half.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    before = set(folder.rglob("*"))
    assert_refused(run("report", "half"), folder, before, weights.name, "save the network again")
    (half / "recipe.yaml").write_text((half / "recipe.yaml").read_text()[:300])
    assert_refused(run("report", "half"), folder, before, "recipe.yaml is damaged")


def test_weights_of_another_network_are_refused_with_the_keys_that_differ(run, folder):
    torch.save(ghostify.build("resnet32-cifar").state_dict(), folder / "other.pt")
    before = set(folder.rglob("*"))
    outcome = run("convert", NET, "--weights", "other.pt", "-o", "out")
    assert_refused(outcome, folder, before, "other.pt", "layer1.3")


def test_weights_of_another_shape_are_refused_with_both_shapes(run, folder):
    torch.save(ghostify.build(NET, {"num_classes": 7}).state_dict(), folder / "seven.pt")
    outcome = run("convert", NET, "--weights", "seven.pt")
    words = ("linear.weight is (7, 64), not (10, 64)",)
    assert_refused(outcome, folder, set(folder.rglob("*")), *words)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_that_holds_no_weights_is_refused(run, folder, name, content):
    (folder / name).write_bytes(content)
    outcome = run("convert", NET, "--weights", name)
    assert_refused(outcome, folder, {folder / name}, name)


def test_a_checkpoint_that_would_run_code_is_refused(run, folder):
    torch.save(nn.Conv2d(3, 8, 3), folder / "module.pt")
    outcome = run("convert", NET, "--weights", "module.pt")
    assert_refused(outcome, folder, {folder / "module.pt"}, "would run code", "state_dict")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("just words", ("no settings",)),
        ("- s\n- d\n", ("no settings",)),
        ("s: [2\n", ("no YAML",)),
        ("s: two\n", ("s='two'",)),
        ("q: 2\n", ("'q'", "no setting of c-ghost")),
        ("mode: x-ghost\n", ("mode='x-ghost'",)),
        ("s: {0: 2}\n", ("pattern 0", "quote it")),
        ("linear: maybe\n", ("linear='maybe'",)),
        ("keep: 5\n", ("keep=5",)),
        ("", ("no settings",)),
    ],
)
def test_a_settings_file_that_makes_no_sense_is_refused(run, folder, text, words):
    (folder / "my.yaml").write_text(text)
    outcome = run("convert", NET, "--settings", "my.yaml")
    assert_refused(outcome, folder, {folder / "my.yaml"}, "my.yaml", *words)


def test_a_settings_file_is_not_mixed_with_options(run, folder):
    (folder / "my.yaml").write_text("s: 2\n")
    before = {folder / "my.yaml"}
    for option in (("--s", "2"), ("--mode", "c-ghost"), ("--linear",)):
        outcome = run("convert", NET, "--settings", "my.yaml", *option)
        assert_refused(outcome, folder, before, option[0].strip("-"), "--settings")


def test_a_settings_file_of_bytes_is_refused(run, folder):
    (folder / "my.yaml").write_bytes(b"\xff\xfe\x00")
    outcome = run("convert", NET, "--settings", "my.yaml")
    assert_refused(outcome, folder, {folder / "my.yaml"}, "my.yaml", "no text")


def test_a_factory_that_fails_is_told_with_its_own_words(run, folder, nets):
    outcome = run("convert", "nets.py:broken")
    assert outcome.code == 2 and "KeyError: 'boom'" in outcome.err
    outcome = run("convert", "nets.py:number")
    assert outcome.code == 2 and "gave a int" in outcome.err
    for name, word in (("quits", "SystemExit: 7"), ("stops", "Halt")):
        outcome = run("convert", f"nets.py:{name}")
        assert_refused(outcome, folder, {*folder.rglob("*")}, f"nets.py:{name}", word)
    (folder / "quitting.py").write_text("import sys; sys.exit(7)")
    outcome = run("convert", "quitting.py:build")
    assert_refused(outcome, folder, {*folder.rglob("*")}, "quitting.py", "SystemExit: 7")


def test_a_saved_folder_takes_no_weights_and_no_arguments(run, folder, saved):
    for option in (("--weights", "x.pt"), ("--model-args", "{}")):
        outcome = run("convert", saved, *option)
        assert_refused(outcome, folder, set(), "has its own weights", "leave out")


def test_a_converted_folder_takes_no_settings_in_check(run, folder, saved):
    outcome = run("check", saved, "--max-macs", "1e9", "--s", "4")
    assert_refused(outcome, folder, set(), "converted already")


def test_the_installed_command_says_it_in_one_sentence(installed, folder):
    assert_refused(installed("convert", NET, "--s", "0", "-o", "out"), folder, set(), "s=0")
