"""Help, version, completion: quick, and with examples."""

from __future__ import annotations

import subprocess
import sys

import pytest

import ghostify
from ghostify.cli import app

COMMANDS = [str(command.callback.__name__) for command in app.registered_commands]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("option", ["-h", "--help"])
def test_each_command_has_help_with_examples(run, command, option):
    outcome = run(command, option)
    assert outcome.code == 0 and outcome.err == ""
    examples = [
        line for line in outcome.out.splitlines() if line.startswith(f"  ghostify {command}")
    ]
    assert len(examples) >= 2


def test_the_help_has_an_example_of_each_command(run):
    text = run("--help").out
    assert all(f"  ghostify {command} " in text for command in COMMANDS)


def test_the_examples_of_the_help_name_options_that_exist(run):
    for command in COMMANDS:
        text = run(command, "--help").out
        options = text.partition("Options:")[2]
        examples = [line for line in text.splitlines() if line.startswith(f"  ghostify {command}")]
        for word in (
            w for line in examples for w in line.split() if w.startswith("-") and w != "-"
        ):
            assert word in options, (command, word)


def test_without_a_command_the_help_is_shown(run):
    outcome = run()
    assert "ghostify convert" in outcome.out + outcome.err


def test_the_version_is_the_packages(run):
    assert run("--version").out == f"ghostify {ghostify.__version__}\n"


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["convert", "--help"], ["convert", "--nonsense"]]
)
def test_what_needs_no_network_imports_no_torch(args):
    code = f"""
import sys
from ghostify.cli import main
sys.argv = ["ghostify", *{args!r}]
try:
    main()
except SystemExit:
    pass
heavy = {{"torch", "torchvision", "timm", "numpy", "yaml", "safetensors"}} & sys.modules.keys()
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_completion_can_be_shown_and_installed(installed):
    plain = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    shown = installed("--show-completion", "bash", **plain)
    assert shown.code == 0 and "complete -o default -F _ghostify_completion ghostify" in shown.out
    assert "--install-completion" in installed("--help").out


def test_the_shell_completes_commands(installed):
    outcome = installed(
        _GHOSTIFY_COMPLETE="complete_bash", COMP_WORDS="ghostify co", COMP_CWORD="1"
    )
    assert outcome.out.split() == ["convert"]
