"""Reports of conversions: the comparison, its tables, and bounds for CI."""

from ghostify.reports.conversion import Report
from ghostify.reports.layer_rows import LayerRow

__all__ = ["LayerRow", "Report"]
