"""Warm start: what a trained network learned, kept in the ghost modules that replace its layers."""

from ghostify.warmstart.result import LayerFit, WarmStart
from ghostify.warmstart.start import DATA_FREE, WarmStartSettings, warm_start_

__all__ = ["DATA_FREE", "LayerFit", "WarmStart", "WarmStartSettings", "warm_start_"]
