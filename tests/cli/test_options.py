"""Nasty values of options and files: one sentence that names the shell's option, exit code 2."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from ghostify import files
from ghostify.cli._names import with_options
from ghostify.data.scratch import Scratch
from ghostify.errors import GhostifyError
from tests.cli.test_bad_input import NET, assert_refused

LONG = "n" * 300


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("convert", NET, "--input-size", "3x" + "9" * 21 + "x32"), ("--input-size=",)),
        (("convert", NET, "--input-size", "3x99999999x99999999"), ("--input-size=",)),
        (("convert", NET, "--model-args", "[" * 20_000), ("--model-args is no JSON",)),
        (("convert", NET, "--model-args", '{"a": ' + "9" * 5000 + "}"), ("--model-args",)),
        (("convert", NET, "--calibration", "data-free", "--seed", "9" * 40), ("--seed=9",)),
        (("convert", NET, "--mode", "g-ghost", "--min-blocks", "0"), ("--min-blocks=0",)),
        (("convert", NET, "--mode", "g-ghost", "--linear"), ("--linear is no", "--min-blocks")),
        (("convert", NET, "--mode", "g-ghost", "--group-width", "nan"), ("--group-width=nan",)),
        (("evaluate", NET, "--data", ".", "--devices", "9" * 21), ("--devices=9",)),
        (("convert", LONG), ("is no model",)),
        (("convert", NET, "-o", LONG), ("File name too long",)),
        (("convert", NET, "--json", LONG), ("File name too long",)),
        (("convert", NET, "--weights", LONG), ("is no file",)),
        (("convert", NET, "--settings", LONG), ("File name too long",)),
        (("analyze", NET, "--image", LONG), ("is no file",)),
    ],
    ids=lambda value: " ".join(value)[:60],
)
def test_nasty_values_are_refused_in_a_sentence(run, folder, args, words):
    assert_refused(run(*args), folder, set(), *words)


def test_minutes_of_a_reconstruction_are_named_as_in_the_shell(run, folder):
    (folder / "images").mkdir()
    before = set(folder.rglob("*"))
    args = ("--calibration", "images", "--reconstruct", "--minutes", "-1")
    assert_refused(run("convert", NET, *args), folder, before, "--minutes=-1")


def test_a_number_that_is_none_is_a_wrong_usage(run):
    outcome = run("convert", NET, "--target-macs", "half")
    assert outcome.code == 2 and "'--target-macs'" in outcome.err and outcome.out == ""


def test_names_in_a_settings_file_stay_as_they_are_there(run, folder):
    (folder / "my.yaml").write_text("mode: g-ghost\nmin_blocks: 0\n")
    outcome = run("convert", NET, "--settings", "my.yaml")
    assert_refused(outcome, folder, {folder / "my.yaml"}, "my.yaml: min_blocks=0")


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("give epochs=1 or my_epochs=2.", "give --epochs=1 or my_epochs=2."),
        ("It doesn't fit 'max_macs=1', can't.", "It doesn't fit 'max_macs=1', can't."),
        ("one of epochs, max_macs.", "one of --epochs, --max-macs."),
        ("out/max_macs.yaml has max_macs", "out/max_macs.yaml has --max-macs"),
        ("resume with resume=True (--resume).", "resume with --resume."),
    ],
)
def test_names_are_replaced_where_they_stand_for_options(said, shown):
    names = {"epochs": "--epochs", "max_macs": "--max-macs", "resume": "--resume"}
    assert with_options(said, names) == shown


def text_bomb(path: Path) -> None:
    """A PNG with a text chunk that unpacks to 80 MB."""
    Image.new("RGB", (8, 8)).save(path)
    body = b"zTXtkey\0\0" + zlib.compress(bytes(80_000_000))
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    data = path.read_bytes()
    path.write_bytes(data[:33] + chunk + data[33:])


def pixel_bomb(path: Path) -> None:
    """A PNG that says it has 10 billion pixels."""
    Image.new("RGB", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", 100_000, 100_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


@pytest.mark.parametrize("command", ["analyze", "convert", "evaluate"])
@pytest.mark.parametrize("make", [text_bomb, pixel_bomb, os.mkfifo, Path.touch])
def test_an_image_that_is_none_is_refused(run, folder, make, command):
    place = folder / "images" / "a"
    place.mkdir(parents=True)
    make(place / "cat\n.png")
    before = set(folder.rglob("*"))
    option = {"analyze": "--image", "convert": "--calibration", "evaluate": "--data"}[command]
    given = "images" if command == "evaluate" else "images/a"
    outcome = run(command, NET, option, given)
    assert_refused(outcome, folder, before, "cat\\n.png can't be read")


@pytest.mark.parametrize("option", ["--weights", "--settings"])
def test_a_pipe_is_refused_and_not_waited_for(run, folder, option):
    os.mkfifo(folder / "pipe.safetensors")
    outcome = run("convert", NET, option, "pipe.safetensors")
    assert_refused(outcome, folder, {folder / "pipe.safetensors"}, "it is no regular file")


def test_a_folder_whose_recipe_is_a_pipe_is_no_saved_network(run, folder):
    (folder / "out").mkdir()
    os.mkfifo(folder / "out" / "recipe.yaml")
    before = set(folder.rglob("*"))
    assert_refused(run("report", "out"), folder, before, "has no recipe.yaml")


def test_a_place_without_permission_is_said(tmp_path, monkeypatch):
    def refused(self, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "stat", refused)
    with pytest.raises(GhostifyError, match=r"secret can't be looked at \(Permission denied"):
        files.kind_of(tmp_path / "secret")
    with pytest.raises(GhostifyError, match=r"secret can't be read \(Permission denied"):
        files.read_text(tmp_path / "secret", "give another")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may do all")
def test_a_folder_without_permission_is_refused_everywhere(run, folder):
    (folder / "secret").mkdir(mode=0)
    before = {folder / "secret"}
    for args in (
        ("report", "secret"),
        ("convert", NET, "-o", "secret"),
        ("convert", NET, "--json", "secret/a.json"),
        ("convert", NET, "--calibration", "secret"),
        ("evaluate", NET, "--data", "secret"),
        ("analyze", NET, "--image", "secret"),
    ):
        assert_refused(run(*args), folder, before, "secret")


def test_a_disk_that_is_full_for_temporary_files_is_said(run, folder, monkeypatch):
    (folder / "images").mkdir()
    Image.new("RGB", (32, 32)).save(folder / "images" / "a.png")
    before = set(folder.rglob("*"))

    class Full:
        def seek(self, place):
            return place

        def write(self, data):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    monkeypatch.setattr("ghostify.data.scratch.shared_scratch", Scratch)
    monkeypatch.setattr("tempfile.TemporaryFile", lambda **options: Full())
    outcome = run("convert", NET, "--calibration", "images")
    assert_refused(outcome, folder, before, "No space left on device", "TMPDIR")


def test_an_interrupted_warm_start_keeps_what_is_done_and_exits_130(run, folder, monkeypatch):
    (folder / "images").mkdir()
    for shade in (0, 60, 120, 180):
        image = Image.new("RGB", (32, 32), (shade, 255 - shade, 100))
        image.save(folder / "images" / f"{shade}.png")

    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("ghostify.warmstart.fitting.NetworkFit._tune_network", interrupted)
    monkeypatch.setattr("ghostify.warmstart.fitting.tune_part", lambda *args: 1)
    args = ("--calibration", "images", "--reconstruct", "-o", "out", "-q")
    outcome = run("convert", NET, "--only", "conv1", *args)
    assert outcome.code == 130 and outcome.out == ""
    assert "ghostify: interrupted: 1 of 1 layers are fitted" in outcome.err
    assert (folder / "out" / "recipe.yaml").is_file()
