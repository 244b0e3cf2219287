"""Warm start: what a trained network learned, kept in the ghost modules that replace its layers."""

from ghostify.warmstart.result import LayerFit, WarmStart
from ghostify.warmstart.start import warm_start_

__all__ = ["LayerFit", "WarmStart", "warm_start_"]
