"""The folder for what may be worked out again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

VARIABLE = "GHOSTIFY_CACHE"
"""The environment variable that names the folder."""


def cache_folder() -> Path:
    """The user's folder for ghostify's caches: ``GHOSTIFY_CACHE``, else where the system has them.

    It may not be there yet.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return Path(named)
    home = Path.home()
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "ghostify"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local") / "ghostify"
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "ghostify"
