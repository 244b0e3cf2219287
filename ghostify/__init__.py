"""ghostify: make a trained CNN cheaper with ghost modules.

Example:
    >>> import ghostify
    >>> cheaper = ghostify.convert("resnet20-cifar", mode="c-ghost", s=2)
    >>> round(ghostify.report(cheaper).ratios.macs, 1)
    1.9
"""

from __future__ import annotations

import importlib
import random
from typing import TYPE_CHECKING, Any

from ghostify import _torchvision_guard
from ghostify._version import __version__

if TYPE_CHECKING:
    from ghostify.analysis import Analysis, analyze
    from ghostify.api import build, convert, convert_, find_stages, load, plan, report, save
    from ghostify.cost import Cost, Count, count
    from ghostify.errors import GhostifyError
    from ghostify.nn import GGhostStage, GhostConv2d, GhostLinear
    from ghostify.passes import CGhostPass
    from ghostify.plans import Plan
    from ghostify.reports import Report
    from ghostify.reports.bounds import Bounds, check
    from ghostify.reports.stage_table import StageTable
    from ghostify.settings import CGGhost, CGhost, GGhost
    from ghostify.train import Evaluation, Finetuned, FinetuneSettings, evaluate, finetune
    from ghostify.verification import verify
    from ghostify.zoo import list_models


_torchvision_guard.install()

# Where each public name lives. They are imported when first used, so that `ghostify --help` (and
# whatever else needs no network) does not wait for torch.
_HOMES = {
    "Analysis": "ghostify.analysis",
    "Bounds": "ghostify.reports.bounds",
    "CGGhost": "ghostify.settings",
    "CGhost": "ghostify.settings",
    "CGhostPass": "ghostify.passes",
    "Cost": "ghostify.cost",
    "Count": "ghostify.cost",
    "Evaluation": "ghostify.train",
    "FinetuneSettings": "ghostify.train",
    "Finetuned": "ghostify.train",
    "GGhost": "ghostify.settings",
    "GGhostStage": "ghostify.nn",
    "GhostConv2d": "ghostify.nn",
    "GhostLinear": "ghostify.nn",
    "GhostifyError": "ghostify.errors",
    "Plan": "ghostify.plans",
    "Report": "ghostify.reports",
    "StageTable": "ghostify.reports.stage_table",
    "analyze": "ghostify.analysis",
    "build": "ghostify.api",
    "check": "ghostify.reports.bounds",
    "convert": "ghostify.api",
    "convert_": "ghostify.api",
    "count": "ghostify.cost",
    "evaluate": "ghostify.train",
    "find_stages": "ghostify.api",
    "finetune": "ghostify.train",
    "list_models": "ghostify.zoo",
    "load": "ghostify.api",
    "plan": "ghostify.api",
    "report": "ghostify.api",
    "save": "ghostify.api",
    "verify": "ghostify.verification",
}

__all__ = [
    "Analysis",
    "Bounds",
    "CGGhost",
    "CGhost",
    "CGhostPass",
    "Cost",
    "Count",
    "Evaluation",
    "FinetuneSettings",
    "Finetuned",
    "GGhost",
    "GGhostStage",
    "GhostConv2d",
    "GhostLinear",
    "GhostifyError",
    "Plan",
    "Report",
    "StageTable",
    "__version__",
    "analyze",
    "build",
    "check",
    "convert",
    "convert_",
    "count",
    "evaluate",
    "find_stages",
    "finetune",
    "list_models",
    "load",
    "plan",
    "report",
    "save",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ghostify' has no attribute {name!r}")
    state = random.getstate()  # some of what is imported draws while it is
    try:
        return getattr(importlib.import_module(_HOMES[name]), name)
    finally:
        random.setstate(state)


def __dir__() -> list[str]:
    return __all__
