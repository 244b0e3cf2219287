"""What becomes of each layer and stage: what costs the output least within some budgets."""

from ghostify.warmstart.allocation.target import ALLOCATORS, plan_within_budgets

__all__ = ["ALLOCATORS", "plan_within_budgets"]
