"""ghostify: make a trained CNN cheaper with ghost modules.

Example:
    >>> import ghostify
    >>> cheaper = ghostify.convert("resnet20-cifar", mode="c-ghost", s=2)
    >>> round(ghostify.report(cheaper).ratios.macs, 1)
    1.9
"""

from __future__ import annotations

import random
from typing import Any

import lazy_loader

from ghostify import _torchvision_guard

_torchvision_guard.install()

# The public names stand in __init__.pyi. They are imported when first used, so that
# `ghostify --help` (and whatever else needs no network) does not wait for torch.
_import, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name not in __all__:  # in Python's words
        raise AttributeError(f"module 'ghostify' has no attribute {name!r}")
    state = random.getstate()  # some of what is imported draws while it is
    try:
        return _import(name)
    finally:
        random.setstate(state)
