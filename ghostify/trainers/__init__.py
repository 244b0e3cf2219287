"""Callbacks for other trainers, each in a file of its own: Lightning, transformers."""
