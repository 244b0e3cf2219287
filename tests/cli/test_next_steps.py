"""How `ghostify convert` ends: with what to do next, on stderr, and not when it is to be quiet."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import save_file

import ghostify

NET = "resnet20-cifar"


@pytest.fixture
def weights(folder):
    save_file(ghostify.build(NET).state_dict(), folder / "w.safetensors")
    return "w.safetensors"


def last_lines(outcome) -> list[str]:
    return outcome.err.splitlines()


def test_it_names_the_commands_for_the_folder_that_was_saved(run):
    lines = last_lines(run("convert", NET, "-o", "my out"))
    assert lines[-1] == (
        "ghostify: next: ghostify finetune 'my out' --data IMAGES -o 'my out-tuned' (tune), "
        "ghostify bench 'my out' (time), ghostify export 'my out' -o net.onnx (ship)"
    )
    assert not any("chance" in line for line in lines)


def test_trained_weights_without_images_are_said_to_be_near_chance(run, weights):
    lines = last_lines(run("convert", NET, "--weights", weights, "-o", "out"))
    assert "near chance until it is fitted (--calibration IMAGES)" in lines[-2]
    assert "convert again with --calibration IMAGES (fit)" in lines[-1]
    assert f"--teacher-weights {weights}" in lines[-1]


def test_with_images_there_is_nothing_to_warn_of(run, weights, folder, write_images):
    write_images(folder / "images", {"a": 4}, (32, 32))
    outcome = run("convert", NET, "--weights", weights, "--calibration", "images/a", "-o", "out")
    assert outcome.code == 0 and "chance" not in outcome.err and "(fit)" not in outcome.err
    assert "ghostify bench out (time)" in outcome.err


def test_a_network_that_was_not_saved_is_to_be_saved_first(run):
    assert "next: -o FOLDER saves the network" in last_lines(run("convert", NET))[-1]


def test_where_nothing_was_converted_it_says_so(run):
    lines = last_lines(run("convert", NET, "--keep", "*", "-o", "out"))
    assert "nothing was converted" in lines[-1]


def test_quiet_says_nothing_and_json_stays_clean(run, weights):
    assert run("convert", NET, "--weights", weights, "-o", "out", "-q").err == ""
    outcome = run("convert", NET, "--json", "-")
    assert json.loads(outcome.out)["model"] == NET and "next:" in outcome.err


def test_a_dry_run_has_no_next_step(run):
    assert "next:" not in run("convert", NET, "--dry-run").err
