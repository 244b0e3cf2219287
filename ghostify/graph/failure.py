"""Where in a network's own code something stopped, in a line."""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

_OURS = str(Path(__file__).parents[1]) + os.sep
_TORCH = str(Path(torch.__file__).parent) + os.sep
# A network that is part of this package is a network like any other.
_NETWORKS = str(Path(__file__).parents[1] / "models") + os.sep


def describe_error(error: BaseException) -> str:
    """``models/net.py:42: TypeError: ...``: the innermost line outside PyTorch and ghostify.

    Only the last two parts of the path are named, and the first sentence of what was said.
    """
    lines = str(error).strip().splitlines()
    sentence = lines[0].split(". ")[0].rstrip(".") if lines else ""
    said = f"{type(error).__name__}: {sentence}" if sentence else type(error).__name__
    # Not by `extract_tb`: it fails on code that torch.fx patched (a forward with *args, torch 2.6).
    walked = traceback.walk_tb(error.__traceback__)
    places = [(frame.f_code.co_filename, line) for frame, line in walked]
    theirs = [(filename, line) for filename, line in places if _is_theirs(filename)]
    if not theirs:
        return said
    filename, line = theirs[-1]
    return f"{'/'.join(Path(filename).parts[-2:])}:{line}: {said}"


@contextmanager
def exit_refused() -> Iterator[None]:
    """Let a network's own ``sys.exit`` fail like any other error in its code.

    Raises:
        RuntimeError: In place of `SystemExit`, which would end the caller's process.
    """
    try:
        yield
    except SystemExit as end:
        error = RuntimeError(f"it calls sys.exit({end.code!r})")
        raise error.with_traceback(end.__traceback__) from end


def _is_theirs(filename: str) -> bool:
    if filename.startswith(_NETWORKS):
        return True
    return not filename.startswith((_OURS, _TORCH, "<"))
