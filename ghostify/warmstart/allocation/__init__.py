"""An s for each layer or a ratio for each stage: what costs the output least within some MACs."""

from ghostify.warmstart.allocation.target import ALLOCATORS, choose_within_target

__all__ = ["ALLOCATORS", "choose_within_target"]
