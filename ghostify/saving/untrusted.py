"""Check of what a saved folder asks for without trust: a known architecture and its sizes.

The arguments of a factory are as powerful as code: timm's and torchvision's load weights from a
path, an address or a hub, and some readers of weights run what they read. So an argument that says
where something comes from is refused, and values are numbers, booleans and short plain words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ghostify.errors import shown
from ghostify.saving.history import Source

MOST_VALUES = 1000
MOST_DEPTH = 8

# "resnet50", "timm/resnet50.a1_in1k": an architecture that is installed, and no place to look.
_NAME = re.compile(r"(timm/)?[A-Za-z0-9][A-Za-z0-9_.+-]{0,127}", re.ASCII)
_KEY = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)
_WORD = re.compile(r"[A-Za-z0-9_ +-]{0,64}", re.ASCII)
# An argument whose name ends so says where something comes from; one whose name has such a part
# does so unless it is a number (use_checkpoint=True spares memory).
_PLACES = frozenset({
    "cache", "dir", "dirs", "directory", "file", "filename", "files", "folder", "hub", "path",
    "repo", "repository", "uri", "url", "urls",
})  # fmt: skip
_PARTS = _PLACES | {"checkpoint", "ckpt", "download", "hf", "host", "proxy", "state", "weights"}
# Sizes that an architecture was trained with are part of the architecture (Swin V2).
_SIZES = ("pretrained_window_size", "pretrained_window_sizes", "pretrained_img_size")


class UntrustedError(ValueError):
    """A source that may do more than build an architecture; its message is the reason."""


def check_source(source: Source) -> None:
    """Raise unless building a source does no more than build a known architecture.

    Raises:
        UntrustedError: Its name or an argument may reach for files, addresses or code.
    """
    if not _NAME.fullmatch(source.name):
        raise UntrustedError(f"{shown(source.name)} is no plain name of an architecture")
    for count, (key, value, depth) in enumerate(_walk(source.model_args)):
        if count >= MOST_VALUES or depth > MOST_DEPTH:
            raise UntrustedError("its model_args are too many or too deep")
        _check_value(key, value)


def _walk(arguments: Mapping[Any, Any]) -> Iterator[tuple[Any, Any, int]]:
    """Each argument and each value inside one, with its name and depth."""
    waiting = [(key, value, 1) for key, value in arguments.items()]
    while waiting:
        key, value, depth = waiting.pop()
        yield key, value, depth
        if isinstance(value, Mapping):
            waiting += [(inner, item, depth + 1) for inner, item in value.items()]
        elif isinstance(value, list | tuple):
            waiting += [(key, item, depth + 1) for item in value]


def _check_value(key: Any, value: Any) -> None:
    if not isinstance(key, str) or not _KEY.fullmatch(key):
        raise UntrustedError(f"the argument {shown(key)} has no plain name")
    if value and _fetches(key, value):  # pretrained: false, weights: null ask for nothing
        raise UntrustedError(f"the argument {key} may load from files or addresses")
    is_word = isinstance(value, str) and _WORD.fullmatch(value)
    if not is_word and not isinstance(value, bool | int | float | Mapping | list | tuple | None):
        raise UntrustedError(f"{key}={shown(value)} is no number and no plain word")


def _fetches(key: str, value: Any) -> bool:
    parts = key.lower().split("_")
    if (parts[0] == "pretrained" and key not in _SIZES) or parts[0].startswith("weights"):
        return True
    if parts[-1] in _PLACES and not key.endswith("drop_path"):
        return True
    return isinstance(value, str | Mapping) and not _PARTS.isdisjoint(parts)
