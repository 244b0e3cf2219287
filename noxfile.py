"""The test suite with the oldest, the pinned and the newest versions of what ghostify depends on.

    nox                                  the whole suite with the pinned versions
    nox -s oldest newest                 the whole suite with the oldest and with the newest
    nox -s oldest newest -- -m smoke     the short form of that, which CI runs

Versions are stated in pyproject.toml alone. `--force-python 3.10` takes another Python than the
one that runs nox.
"""

from __future__ import annotations

import nox

# What came out of it: a line for each dependency and extra.
SHOW_VERSIONS = """
import importlib.metadata as metadata, re, sys
names = {re.split(r"[^\\w.-]", line)[0] for line in metadata.requires("ghostify")}
print("Python", sys.version.split()[0])
for name in sorted(names, key=str.lower):
    try:
        print(name, metadata.version(name))
    except metadata.PackageNotFoundError:
        pass  # of an extra that the tests need not
"""

nox.options.sessions = ["pinned"]


@nox.session(venv_backend="uv")
def oldest(session: nox.Session) -> None:
    """Test with the lowest version that pyproject.toml allows of each dependency."""
    session.install("--resolution", "lowest-direct", "-e", ".[test]")
    _test(session)


@nox.session(venv_backend="venv")
def pinned(session: nox.Session) -> None:
    """Test with the pair of torch and torchvision that the extra `pinned` names."""
    session.install("-e", ".[pinned,test]")
    _test(session)


@nox.session(venv_backend="uv")
def newest(session: nox.Session) -> None:
    """Test with the newest of everything, without pins (uv: wheels of gigabytes in parallel)."""
    session.install("-e", ".[test]")
    _test(session)


def _test(session: nox.Session) -> None:
    """Print the versions that came out, then run pytest with the arguments after `--`."""
    session.run("python", "-c", SHOW_VERSIONS)
    session.run("pytest", *(session.posargs or ["-n", "2"]))
