"""Reports: what a conversion saved, and bounds for CI."""

from ghostify.reports.conversion import Report, Row

__all__ = ["Report", "Row"]
