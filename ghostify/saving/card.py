"""The model card of a saved folder: a README.md that tells people what the weights are.

A card ends with the checksum of its own text. A save writes over a card that is as it was written,
and over nothing else: what somebody edited, or wrote, is theirs.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ghostify import zoo
from ghostify.documents import amount, counted, times
from ghostify.errors import GhostifyWarning, first_line
from ghostify.files import drafts
from ghostify.plans import Plan
from ghostify.reports.conversion import Report
from ghostify.saving.history import History, Source

CARD = "README.md"
PLACE = "FOLDER"
"""What stands in a card for the folder that it is in, which may move."""

_MARK = "<!-- Written by ghostify ({}). Edit the text, and later saves leave it alone. -->"
_END = re.compile(re.escape(_MARK).replace(r"\{\}", "([0-9a-f]{16})") + "\n?")
UNFITTED = (
    "not fitted to its original when it was converted: unless it was tuned since, its outputs are "
    "near chance"
)
LONGEST = 1_000_000
"""Bytes of a card at most; a longer file is somebody else's."""


def write_card(
    history: History, weights: str, place: str = PLACE, program: str | None = None
) -> str:
    """The text of a card, in the form of Hugging Face: YAML, then Markdown.

    Args:
        history: How the network came about.
        weights: Name of the file with its weights.
        place: What ``ghostify.load`` is to be given.
        program: Name of the file of `torch.export`, where there is one.
    """
    runs = "" if program is None else f"- `{program}`: a program of `torch.export` that runs it\n"
    blocks = [
        f"---\n{yaml.safe_dump(_front_matter(history), sort_keys=False)}---",
        *_what_it_is(history),
        *_what_it_costs(history.report),
        *_how_it_was_fitted(history),
        *_how_to_load(history.source, place, program),
        "## Files\n\n"
        f"- `{weights}`: the weights, as safetensors\n{runs}"
        "- `recipe.yaml`: how the network was made, as plain data; no code is in it or the weights",
        "## License\n\n"
        "`license: unknown` above: give the licence of the weights that it was made from.",
    ]
    return _marked("\n\n".join(blocks) + "\n\n")


def address_card(text: str, place: str) -> str:
    """The text of an untouched card, with another place in the lines that load the network."""
    body = text[: [*_END.finditer(text)][-1].start()]
    there = f'ghostify.load("{_in_block(place)}"'
    return _marked(body.replace(f'ghostify.load("{PLACE}"', there, 1))


def _marked(text: str) -> str:
    return f"{text}{_MARK.format(_checksum(text))}\n"


def is_untouched(path: Path) -> bool:
    """Whether a file is a card as a save wrote it, or is not there: nobody's own text."""
    try:
        if path.is_symlink() or not path.is_file():
            return not (path.is_symlink() or path.exists())
        if path.stat().st_size > LONGEST:
            return False
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):  # not to be read, or no text
        return False
    *_, end = [None, *_END.finditer(text)]
    return end is not None and end.end() == len(text) and _checksum(text[: end.start()]) == end[1]


def warn_of_card(card: str) -> None:
    """Say that a card is somebody's own, and is left alone."""
    warnings.warn(
        f"{card} is not as ghostify wrote it, and stays as it is: its figures may be those of "
        "another network than the one that is saved now.",
        GhostifyWarning,
        stacklevel=3,
    )


def put_card(draft: Path, card: Path) -> None:
    """Put a written card into its place; with a warning where somebody's own text stands there."""
    if not is_untouched(card):
        warn_of_card(str(card))
        return
    try:
        drafts.put(draft, card)
    except OSError as error:  # the network itself is saved
        warnings.warn(
            f"{card} could not be written ({error.strerror or first_line(error)}).",
            GhostifyWarning,
            stacklevel=2,
        )


def _checksum(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()[:16]


def _front_matter(history: History) -> dict[str, Any]:
    modes = dict.fromkeys(plan.settings.mode for plan in history.plans)
    return {
        "license": "unknown",
        "library_name": "ghostify",
        "tags": ["ghostify", "pytorch", "safetensors", "model-compression", *modes],
    }


def _what_it_is(history: History) -> Iterator[str]:
    name = _name(history)
    yield f"# {_plain(name)}, made cheaper" if history.plans else f"# {_plain(name)}"
    if not history.plans:
        yield f"{_code(name)}, saved by ghostify."
        return
    modes = " then ".join(plan.settings.mode for plan in history.plans)
    done = "; then ".join(map(_done, history.plans))
    yield f"{_code(name)}, converted ({modes}) by ghostify: {done}."


def _done(plan: Plan) -> str:
    stages = f"{counted(len(plan.stages), 'stage')} rebuilt" if plan.stages else ""
    layers = counted(len(plan.replaced), "layer") + " replaced by ghost modules"
    return ", ".join(filter(None, [stages, layers if plan.replaced or not stages else ""]))


def _what_it_costs(report: Report | None) -> Iterator[str]:
    if report is None or not report.mode:
        return
    rows = [
        f"| {title} | {amount(was)} | {amount(now)} | {times(ratio)} |"
        for title, was, now, ratio in (
            ("parameters", report.before.params, report.after.params, report.ratios.params),
            ("MACs", report.before.macs, report.after.macs, report.ratios.macs),
            ("activations", report.before.acts, report.after.acts, report.ratios.acts),
        )
    ]
    table = "\n".join(["| | original | this network | x fewer |", "|---|---:|---:|---:|", *rows])
    whole = "" if report.missing is None else f"\n\nNot counted whole: {_plain(report.missing)}."
    note = f"\n\nFor an input of {_code(report.inputs)}." if report.inputs else ""
    yield f"## What it costs\n\n{table}{note}{whole}"
    yield "The accuracy was not measured when this was saved: `ghostify evaluate` measures it."


def _how_it_was_fitted(history: History) -> Iterator[str]:
    if not any(plan.replaced or plan.stages for plan in history.plans):
        return
    notes = [UNFITTED] if history.start is None else map(_plain, history.start.notes)
    yield "## How it was fitted\n\n" + "\n".join(f"- {note}" for note in notes)


def _how_to_load(source: Source | None, place: str, program: str | None) -> Iterator[str]:
    options, needs = "", ""
    if source is None and program is not None:
        options, needs = ", trust=True", f"  # runs {program}; or: model=original, to train it"
    elif source is None:
        options, needs = ", model=original", "  # original: the network that was converted"
    elif zoo.runs_user_code(source.name):
        options, needs = ", trust=True", f"  # runs {_in_block(source.name)}"
    yield (
        "## How to load it\n\n```python\nimport ghostify\n\n"
        f'network = ghostify.load("{_in_block(place)}"{options}){needs}\n```'
    )


def _name(history: History) -> str:
    if history.source is not None:
        return history.source.name
    return "A network" if history.report is None else history.report.model


def _code(text: str) -> str:
    """A text as code in Markdown, whatever it holds."""
    line = " ".join(text.split())
    longest = max(map(len, re.findall("`+", line)), default=0)
    fence = "`" * (longest + 1)
    return f"{fence} {line} {fence}" if longest else f"{fence}{line}{fence}"


def _in_block(text: str) -> str:
    """A text in one line of a block of code, which it can't end."""
    return " ".join(text.split()).replace("`", "'")


def _plain(text: str) -> str:
    """A text in one line, its characters without their meaning in Markdown and HTML."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", " ".join(text.split()))
