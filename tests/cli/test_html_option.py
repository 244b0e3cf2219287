"""`--html`: each command's result as a page, written whole or not at all."""

from __future__ import annotations

import json

import pytest

NET = "resnet20-cifar"


@pytest.mark.parametrize(
    "command",
    [
        ("convert", NET, "--dry-run"),
        ("report", NET),
        ("stages", NET),
        ("bench", NET, NET, "--seconds", "0"),
    ],
    ids=lambda command: command[0],
)
def test_it_writes_a_page(run, folder, command):
    outcome = run(*command, "--html", "page.html")
    assert outcome.code == 0, outcome.err
    text = (folder / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>") and text.endswith("</html>\n") and NET in text


def test_analyze_writes_a_page_with_pictures(run, folder, write_images):
    write_images(folder / "images", {"a": 2}, (32, 32))
    outcome = run("analyze", NET, "--image", "images/a", "--html", "page.html", "-q")
    assert outcome.code == 0, outcome.err
    assert "data:image/png;base64," in (folder / "page.html").read_text(encoding="utf-8")


def test_finetune_writes_a_page_with_the_learning_curve(run, folder, nets, write_images):
    write_images(folder / "images" / "train", {"a": 4, "b": 4})
    outcome = run(
        "finetune", f"{nets}:build", "--model-args", '{"classes": 2}', "--data", "images",
        "--steps", "4", "--batch-size", "4", "--log-steps", "1", "--input-size", "3x16x16",
        "-o", "tuned", "--html", "page.html", "-q",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    text = (folder / "page.html").read_text(encoding="utf-8")
    assert "<h2>Loss</h2>" in text and "<polyline" in text and "step 4" in text


def test_it_goes_to_standard_output_too(run):
    outcome = run("report", NET, "--html", "-")
    assert outcome.out.startswith("<!doctype html>") and outcome.out.endswith("</html>\n")


def test_beside_json_on_standard_output_it_is_a_file(run, folder):
    outcome = run("convert", NET, "--dry-run", "--json", "-", "--html", "page.html")
    assert json.loads(outcome.out)["model"] == NET and (folder / "page.html").exists()


@pytest.mark.parametrize("place", ["nowhere/page.html", "."])
@pytest.mark.parametrize(
    "command",
    [
        ("convert", NET),
        ("report", NET),
        ("stages", NET),
        ("bench", NET),
        ("analyze", NET, "--image", "x.png"),
        ("finetune", NET, "--data", "images", "-o", "tuned"),
    ],
    ids=lambda command: command[0],
)
def test_a_place_that_takes_no_file_is_refused_before_any_work(run, folder, command, place):
    outcome = run(*command, "--html", place)
    assert outcome.code == 2 and outcome.out == ""
    assert outcome.err.startswith(f"ghostify: {place} can't be written")
    assert outcome.err.count("\n") == 1 and list(folder.iterdir()) == []


def test_two_results_in_one_place_are_refused(run):
    outcome = run("report", NET, "--html", "x", "--markdown", "x")
    assert outcome.code == 2 and "--markdown and --html both go to x" in outcome.err
