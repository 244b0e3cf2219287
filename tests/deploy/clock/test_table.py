"""The file of measured times."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ghostify.deploy.clock.table import LatencyTable, cached_at, find_table, keep_table
from ghostify.errors import GhostifyError, SettingsError
from ghostify.plans import Conditions

HERE = Conditions("onnxruntime", "1.0", "a processor")
TABLE = LatencyTable(
    HERE, {"Conv2d(3, 8) @ 1x3x8x8": {"left": 1.5, "s=2, d=3": 0.75}}, {"net": 9.0}
)


def test_a_file_holds_all_of_a_table(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "times.json")
    assert LatencyTable.read(tmp_path / "times.json") == TABLE
    data = json.loads((tmp_path / "times.json").read_text())
    assert data["schema"] == "ghostify.latency/1" and data["runtime"] == "onnxruntime"


def test_more_times_leave_those_that_were_there() -> None:
    other = {"left": 3.0, "s=4, d=3": 1.0}
    more = TABLE.with_times({"Conv2d(3, 8) @ 1x3x8x8": other, "new": {"left": 1.0}})
    assert more.times["Conv2d(3, 8) @ 1x3x8x8"] == {"left": 1.5, "s=2, d=3": 0.75, "s=4, d=3": 0.5}
    assert more.times["new"] == {"left": 1.0} and "new" not in TABLE.times


def test_the_cache_is_read_for_the_same_conditions_alone(cache: Path) -> None:
    assert find_table(HERE, None) == LatencyTable(HERE)
    keep_table(TABLE, None)
    assert find_table(HERE, None) == TABLE
    assert find_table(replace(HERE, threads=2), None).times == {}
    assert find_table(replace(HERE, version="1.1"), None).times == {}
    assert cached_at(HERE).is_relative_to(cache)


def test_a_cache_that_is_broken_or_not_writable_is_no_error(cache: Path) -> None:
    keep_table(TABLE, None)
    cached_at(HERE).write_text("{")
    assert find_table(HERE, None).times == {}
    cached_at(HERE).unlink()
    cached_at(HERE).parent.rmdir()
    (cache / "latency").write_text("a file, no folder")
    keep_table(TABLE, None)


def test_a_file_of_another_machine_steers(tmp_path: Path) -> None:
    TABLE.write(tmp_path / "phone.json")
    asked = replace(HERE, processor="another", version="2.0")
    assert find_table(asked, tmp_path / "phone.json") == TABLE


@pytest.mark.parametrize(
    "other", [{"runtime": "openvino"}, {"threads": 4}, {"batch": 8}, {"dtype": "float16"}]
)
def test_a_file_for_something_else_is_refused(tmp_path: Path, other: dict) -> None:
    TABLE.write(tmp_path / "times.json")
    (name, value), *_ = other.items()
    with pytest.raises(SettingsError, match=rf"{name}={getattr(HERE, name)}, not {value}"):
        find_table(replace(HERE, **other), tmp_path / "times.json")


@pytest.mark.parametrize(
    "change",
    [
        {"schema": "ghostify.report/1"}, {"threads": "one"}, {"threads": 0}, {"runtime": None},
        {"times": [1]}, {"times": {"a": 1}}, {"times": {"a": {"left": -1}}},
        {"times": {"a": {"left": None}}}, {"networks": {"a": "1"}}, {"networks": []},
    ],
)  # fmt: skip
def test_what_is_no_table_is_one_sentence(tmp_path: Path, change: dict) -> None:
    data = {**json.loads(TABLE.to_json()), **change}
    (tmp_path / "times.json").write_text(json.dumps(data))
    with pytest.raises(SettingsError, match=r"latency_table=.*times\.json") as refused:
        find_table(HERE, tmp_path / "times.json")
    assert len(str(refused.value).splitlines()) == 1


def test_a_folder_is_no_file_of_times(tmp_path: Path) -> None:
    with pytest.raises(GhostifyError, match="no regular file"):
        find_table(HERE, tmp_path)
