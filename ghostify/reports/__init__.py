"""What a conversion saved: the comparison, its tables, and bounds for CI."""

from ghostify.reports.conversion import Report, Row

__all__ = ["Report", "Row"]
