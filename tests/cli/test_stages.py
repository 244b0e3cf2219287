"""Stages and G-Ghost from the shell."""

import json
import subprocess


def _run(*arguments, cwd):
    return subprocess.run(
        ["ghostify", *arguments], capture_output=True, text=True, cwd=cwd, check=False
    )


def test_stages_lists_them_and_what_the_equations_promise(tmp_path):
    done = _run("stages", "resnet20-cifar", "--ratio", "0.4", "--json", "-", cwd=tmp_path)
    stages = json.loads(done.stdout)["stages"]
    assert [stage["name"] for stage in stages] == ["layer1", "layer2", "layer3"]
    assert all(stage["eq13"] > 1 for stage in stages)


def test_a_network_is_rebuilt_by_preset_saved_and_checked(tmp_path):
    done = _run(
        *("convert", "resnet56-cifar", "--mode", "g-ghost", "--preset", "cifar", "-o", "out"),
        cwd=tmp_path,
    )
    assert "3 stages rebuilt" in done.stdout
    assert _run("check", "out", "--min-macs-ratio", "2.3", cwd=tmp_path).returncode == 0
    missed = _run("check", "out", "--min-macs-ratio", "2.4", cwd=tmp_path)
    assert (missed.returncode, missed.stdout.count("\n")) == (1, 1)


def test_a_ratio_that_is_no_number_is_one_sentence_and_exit_code_2(tmp_path):
    done = _run("convert", "resnet20-cifar", "--mode", "g-ghost", "--ratio", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert "--ratio=x is no number" in done.stderr
    assert "Traceback" not in done.stderr
