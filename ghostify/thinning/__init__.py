"""Thin blocks: a block with fewer channels, from its graph."""
