"""Keep `import torchvision` working where its compiled ops don't load.

A torchvision built for another torch dies on import with ``operator torchvision::nms does not
exist``, though its classification, segmentation and backbone networks need no compiled op. What
the import needs is that the schemas of two ops are known; they are defined here, and only where the
real ops are missing.
"""

from __future__ import annotations

import importlib.machinery
import importlib.metadata
import sys
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from ghostify.errors import GhostifyWarning

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The schemas live as long as their library objects.
_libraries: list[Any] = []


class _Guard(MetaPathFinder):
    """Finds nothing; looks at torchvision's compiled ops once, before torchvision is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> None:
        """Act on the first import of torchvision, then step aside."""
        if fullname == "torchvision" and path is None:
            with suppress(ValueError):
                sys.meta_path.remove(self)
            # Whatever goes wrong here, the import itself tells the user more.
            with suppress(Exception):
                _mend()


def install() -> None:
    """Watch for the first import of torchvision; costs nothing until then."""
    watched = any(isinstance(finder, _Guard) for finder in sys.meta_path)
    if "torchvision" not in sys.modules and not watched:
        sys.meta_path.insert(0, _Guard())


def _mend() -> None:
    """Define the schemas, with a warning, where the compiled ops don't load."""
    spec = importlib.machinery.PathFinder.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return
    import torch

    if _ops_load(Path(spec.origin).parent) or hasattr(torch.ops.torchvision, "nms"):
        return
    library = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        library.define(schema)
    _libraries.append(library)
    warnings.warn(
        f"torchvision {importlib.metadata.version('torchvision')}'s compiled ops don't load with "
        f"torch {torch.__version__}: nms, roi_align, deform_conv2d (so the post-processing of "
        "detection models) and its image decoding stay unavailable, all else works; install the "
        "torchvision that matches this torch to have them.",
        GhostifyWarning,
        stacklevel=3,  # the line that imports torchvision
    )


def _ops_load(package: Path) -> bool:
    """Whether torchvision's extension library is there and loads into this torch."""
    import torch

    finder = importlib.machinery.FileFinder(
        str(package),
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
    )
    spec = finder.find_spec("_C")
    if spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(spec.origin)
    except (ImportError, OSError):
        return False
    return True
