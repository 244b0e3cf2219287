"""The redundancy of feature maps, measured and drawn (Section 3.1, Figures 1, 4, 7; Table 3)."""

from ghostify.analysis.images import ImageFiles
from ghostify.analysis.measure import analyze
from ghostify.analysis.pictures import draw, draw_for_page
from ghostify.analysis.redundancy import BlockRedundancy, KernelFit, LayerRedundancy, Pair, Subset
from ghostify.analysis.result import Analysis

__all__ = [
    "Analysis",
    "BlockRedundancy",
    "ImageFiles",
    "KernelFit",
    "LayerRedundancy",
    "Pair",
    "Subset",
    "analyze",
    "draw",
    "draw_for_page",
]
