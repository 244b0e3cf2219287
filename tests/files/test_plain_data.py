"""YAML and JSON from outside: plain data alone, and no more of it than is bounded."""

from __future__ import annotations

import pytest
import yaml

from ghostify.files import plain_data
from ghostify.files.plain_data import UnreadableError, read_json, read_yaml

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


@pytest.mark.parametrize("loader", [yaml.SafeLoader, plain_data._Loader])
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 20000, "nest"),
        ("{a: " * 20000, "nested more than 32 deep"),
        ("- " * 20000, "nested more than 32 deep"),
        (BOMB, r"another value \(\*a0\)"),
        ("a: &a [*a]", r"another value"),
        ("s: 2\ns: 3", "the key 's' is given twice"),
        ("a: {1: 2, 1: 3}", "the key 1 is given twice"),
        ("? [a]\n: 2", r"the key \['a'\] is no text"),
        ("s: !!int foo", "has a tag"),
        ("s: !!python/object/apply:os.getcwd []", "has a tag"),
        ("s: " + "9" * 5000, "can't be read"),
        ("\x00", "character"),
        ("s: [", "parsing"),
    ],
)
def test_yaml_of_another_kind_is_refused(monkeypatch, loader, text, words):
    monkeypatch.setattr(plain_data, "_Loader", loader)
    with pytest.raises(UnreadableError, match=words):
        read_yaml(text)


def test_a_date_is_a_text():
    assert read_yaml("[2020-13-45, 2020-01-02]") == ["2020-13-45", "2020-01-02"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, "nested more than 32 deep"),
        ("[" * 40 + "]" * 40, "nested more than 32 deep"),
        ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
        ("9" * 5000, "limit"),
        ("{", "property name"),
    ],
)
def test_json_of_another_kind_is_refused(text, words):
    with pytest.raises(UnreadableError, match=words):
        read_json(text)


def test_size_and_number_of_values_are_limited(monkeypatch):
    monkeypatch.setattr(plain_data, "MAX_BYTES", 100)
    monkeypatch.setattr(plain_data, "MAX_VALUES", 10)
    for read, what in ((read_yaml, "#" * 101), (read_json, " " * 101)):
        with pytest.raises(UnreadableError, match="longer than 100 bytes"):
            read(what)
    for read in (read_yaml, read_json):
        with pytest.raises(UnreadableError, match="more than 10 values"):
            read("[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]")
