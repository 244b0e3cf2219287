"""Plans: what is replaced by what, as data that a person can read and edit."""

from ghostify.plans.plan import Kept, Plan, Replacement, StageRebuild
from ghostify.plans.times import Conditions, LayerTime, MeasuredTimes

__all__ = [
    "Conditions",
    "Kept",
    "LayerTime",
    "MeasuredTimes",
    "Plan",
    "Replacement",
    "StageRebuild",
]
