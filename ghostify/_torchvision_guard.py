"""Keep `import torchvision` working where its compiled ops don't load.

A torchvision built for another torch dies on import with ``operator torchvision::nms does not
exist``, though its classification, segmentation and backbone networks need no compiled op. The
import is left to torchvision. Only after it failed with that error, the missing operators are
declared and the import is run once more; then the declarations are withdrawn, so that nothing is in
the way of a library that defines these operators later.
"""

from __future__ import annotations

import linecache
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from ghostify.errors import GhostifyWarning

PACKAGE = "torchvision"
# How torch refuses an implementation for an operator that nothing has defined.
MISSING = re.compile(rf"operator {PACKAGE}::(\w+)\S* does not exist")
NAMED = re.compile(rf"['\"]{PACKAGE}::(\w+)")


class _Guard(MetaPathFinder):
    """Finds torchvision where the other finders find it, and wraps the loader that they give."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return torchvision's spec with a guarded loader; None for any other module."""
        if fullname != PACKAGE or path is not None:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (f.find_spec(fullname, path, target) for f in others if hasattr(f, "find_spec"))
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _GuardedLoader(spec.loader)
        return spec


class _GuardedLoader(Loader):
    """torchvision's own loader, which runs the package again if operators were missing."""

    def __init__(self, own: Any) -> None:
        self.own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        module: ModuleType | None = self.own.create_module(spec)
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Run the package; if operators were missing, declare them and run it once more."""
        if module.__spec__ is not None:  # the import system is to see the loader that it knows
            module.__spec__.loader = module.__loader__ = self.own
        fresh = dict(vars(module))
        missing = self._run(module)
        if missing:
            _forget(module, fresh)
            with _declared(missing):
                self.own.exec_module(module)
            # The import system's frames don't count: the next one is the line that imports.
            warnings.warn(_message(module), GhostifyWarning, stacklevel=2)
        _step_aside()

    def _run(self, module: ModuleType) -> set[str]:
        """Run the package; return the operators that it found missing, none if all went well."""
        try:
            self.own.exec_module(module)
        except RuntimeError as error:
            missing = MISSING.findall(str(error))
            if not missing:
                raise
            return {*missing, *_named_beside(error)}
        return set()


def install() -> None:
    """Watch for the first import of torchvision; costs nothing until then."""
    watched = any(isinstance(finder, _Guard) for finder in sys.meta_path)
    if PACKAGE not in sys.modules and not watched:
        sys.meta_path.insert(0, _Guard())


def _step_aside() -> None:
    for finder in [finder for finder in sys.meta_path if isinstance(finder, _Guard)]:
        with suppress(ValueError):
            sys.meta_path.remove(finder)


def _forget(module: ModuleType, fresh: dict[str, Any]) -> None:
    """Undo a failed import: its submodules, and the names that it left in the package."""
    for name in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
        del sys.modules[name]
    vars(module).clear()
    vars(module).update(fresh)


def _named_beside(error: BaseException) -> set[str]:
    """All operators that the file which failed names: it would miss them one after the other."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = [f for f in frames if f.f_globals.get("__name__", "").partition(".")[0] == PACKAGE]
    if not inside:
        return set()
    lines = linecache.getlines(inside[-1].f_code.co_filename, inside[-1].f_globals)
    return set(NAMED.findall("".join(lines)))


@contextmanager
def _declared(names: set[str]) -> Iterator[None]:
    """Operators by these names, as far as there are none, without an implementation."""
    import torch

    library = torch.library.Library(PACKAGE, "FRAGMENT")
    for name in sorted(names):
        if not hasattr(getattr(torch.ops, PACKAGE), name):
            library.define(f"{name}(Tensor x) -> Tensor")
    yield
    # A declaration lives as long as its library object.
    del library


def _message(module: ModuleType) -> str:
    import torch

    return (
        f"torchvision {getattr(module, '__version__', '')}'s compiled ops don't load with torch "
        f"{torch.__version__}: nms, roi_align, deform_conv2d (so the post-processing of detection "
        "models) and its image decoding stay unavailable, all else works; install the torchvision "
        "that matches this torch to have them."
    )
