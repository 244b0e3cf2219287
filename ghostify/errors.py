"""The one error class users meet, and the kinds of it a caller would tell apart."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


class GhostifyError(Exception):
    """An error in one sentence: what is wrong, why, and what to do (CLI: exit code 2)."""

    def __init__(self, sentence: str = "") -> None:
        super().__init__(in_one_line(sentence))


class SettingsError(GhostifyError):
    """A setting (``s``, ``d``, a pattern, ...) makes no sense or matches nothing."""


class ModelError(GhostifyError):
    """A model can't be found, built or run."""


class WeightsError(GhostifyError):
    """A weights file can't be read or doesn't fit the model."""


class SavedFolderError(GhostifyError):
    """A saved folder can't be written, or is no (whole) saved network."""


class GhostifyWarning(UserWarning):
    """A warning: something that a user should know, though nothing failed."""


def in_one_line(text: str) -> str:
    """A text with its line breaks and other control characters escaped.

    Example:
        >>> len(in_one_line("a" + chr(10)))
        3
    """
    return "".join(c if unicodedata.category(c) not in _BREAKS else _escaped(c) for c in text)


_BREAKS = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's categories of control characters, halves of pairs (bytes that are no text), breaks."""


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def first_line(error: BaseException) -> str:
    """The first line of what an error says; empty where it says nothing."""
    return (str(error).splitlines() or [""])[0]


def first_cause(error: BaseException) -> str:
    """Kind and first line of the error that others were raised from: ``ValueError: no``.

    Example:
        >>> try:
        ...     try:
        ...         int("a")
        ...     except ValueError as inner:
        ...         raise RuntimeError("step 3 failed") from inner
        ... except RuntimeError as outer:
        ...     print(first_cause(outer))
        ValueError: invalid literal for int() with base 10: 'a'
    """
    while error.__cause__ is not None:
        error = error.__cause__
    said = _COLOURS.sub("", first_line(error))
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def shown(value: object, longest: int = 80) -> str:
    """A value as Python writes it, cut off where it is long; for values that come from outside."""
    try:
        text = repr(value)
    except Exception:  # a number of 5,000 digits, a list inside itself a thousand times
        text = f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def nearest(word: str, known: Iterable[str], count: int = 3) -> str:
    """`` (did you mean a, b?)`` for the known words like ``word``; empty when there are none."""
    close = difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
    return f" (did you mean {', '.join(close)}?)" if close else ""
