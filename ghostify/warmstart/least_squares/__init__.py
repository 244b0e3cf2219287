"""Least squares from sums over images, which do not grow with their number."""
