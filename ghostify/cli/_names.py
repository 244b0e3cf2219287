"""Errors that name Python's arguments, in the words of the command that runs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

from ghostify.errors import GhostifyError, SavedFolderError, SettingsError


class InFileError(SettingsError):
    """An error about names that stand in a file: they are none of the command's options."""


class Command(TyperCommand):
    """A command whose errors name its own options: ``--min-blocks=0``, not ``min_blocks=0``."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the options; a value that is none of its option's is one sentence, as all else."""
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            # By name: newer versions of typer have a click of their own.
            if type(error).__name__ != "BadParameter":
                raise
            reason = error.format_message().rstrip(".")  # type: ignore[attr-defined]
            raise SettingsError(f"{reason}: see `ghostify {self.name} -h`.") from error

    def invoke(self, ctx: Any) -> Any:
        """Run it."""
        try:
            return super().invoke(ctx)
        except (InFileError, SavedFolderError):
            raise
        except GhostifyError as error:
            error.args = (with_options(str(error), option_names(self.params)),)
            raise


def option_names(params: Sequence[Any]) -> dict[str, str]:
    """Python's name of each of a command's options, and its own."""
    long = {p.name: [o for o in p.opts if o.startswith("--")] for p in params}
    return {name: options[0] for name, options in long.items() if name and options}


def with_options(sentence: str, names: Mapping[str, str]) -> str:
    """A sentence with options in place of Python's names; what is quoted stays as it is.

    Example:
        >>> with_options("min_blocks=0 makes no sense.", {"min_blocks": "--min-blocks"})
        '--min-blocks=0 makes no sense.'
        >>> with_options("give trust=True (--trust) to run it.", {"trust": "--trust"})
        'give --trust to run it.'
    """
    if not names:
        return sentence
    known = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    joined = "|".join(re.escape(name) for name in names if "_" in name) or "(?!)"
    pattern = re.compile(
        rf"(?<!\w)'(?P<odd>{known})'(?= is no setting)"
        rf"|(?<![\w./=-])(?P<several>(?:{known})(?:, (?:{known}))+)(?!\w|=)"
        r"|(?<!\w)'[^']*'|\"[^\"]*\""
        rf"|(?<![\w./=-])(?P<flag>{known})=True\b(?: \(--[a-z-]+\))?"
        rf"|(?<![\w./=-])(?P<given>{known})(?==)"
        rf"|(?<![\w./=-])(?P<named>{joined})(?!\w|=|\.\w)"
    )

    def renamed(match: re.Match[str]) -> str:
        words = match[match.lastgroup].split(", ") if match.lastgroup else []
        return ", ".join(names[word] for word in words) or match[0]

    return pattern.sub(renamed, sentence)
