"""Plans: what is replaced by what, as data that a person can read and edit."""

from ghostify.plans.plan import Kept, Plan, Replacement, StageRebuild

__all__ = ["Kept", "Plan", "Replacement", "StageRebuild"]
