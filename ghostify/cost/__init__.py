"""Costs of a network: counted op by op, and by the paper's equations."""

from ghostify.cost.counting import count
from ghostify.cost.figures import Cost, Count, LayerCount
from ghostify.cost.theory import approximate_ratio, compression_ratio, speedup_ratio

__all__ = [
    "Cost",
    "Count",
    "LayerCount",
    "approximate_ratio",
    "compression_ratio",
    "count",
    "speedup_ratio",
]
