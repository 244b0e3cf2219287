from __future__ import annotations

from pathlib import Path

import pytest

from ghostify import GhostifyError
from ghostify.files import check_writable, write_text


def test_a_file_is_written_whole(tmp_path):
    write_text(tmp_path / "a.json", "größer\n")
    assert (tmp_path / "a.json").read_bytes() == "größer\n".encode()
    assert list(tmp_path.iterdir()) == [tmp_path / "a.json"]


def test_a_file_that_was_there_is_replaced(tmp_path):
    (tmp_path / "a.json").write_text("old")
    write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "new"


def test_a_failure_leaves_the_old_file_and_no_draft(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text("old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(GhostifyError, match=r"a\.json can't be written \(No space left"):
        write_text(tmp_path / "a.json", "new")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize("name", ["none/a.json", ".", "file/a.json"])
def test_a_place_that_takes_no_file_is_refused_beforehand(tmp_path, name):
    (tmp_path / "file").write_text("")
    for function in (check_writable, lambda path: write_text(path, "text")):
        with pytest.raises(GhostifyError, match=r"can't be written .*: give a file in a folder"):
            function(tmp_path / name)


def test_a_device_is_written_to_and_not_replaced():
    write_text(Path("/dev/null"), "text")
    assert Path("/dev/null").is_char_device()


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path):
    path = tmp_path / ("n" * 250 + ".json")
    write_text(path, "text")
    assert path.read_text() == "text" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_of_an_earlier_version_left_is_removed(tmp_path):
    (tmp_path / ".a.json.0123456789abcdef0123456789abcdef.tmp").write_text("half")
    (tmp_path / ".b.json.0123456789abcdef0123456789abcdef.tmp").write_text("of another file")
    write_text(tmp_path / "a.json", "text")
    assert {p.name for p in tmp_path.iterdir()} == {
        "a.json",
        ".b.json.0123456789abcdef0123456789abcdef.tmp",
    }
