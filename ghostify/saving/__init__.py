"""Saved networks: a folder of weights and a recipe, and how a network came about."""

from ghostify.saving.folder import RECIPE, check_target, is_saved, read, read_whole, restore, save

__all__ = ["RECIPE", "check_target", "is_saved", "read", "read_whole", "restore", "save"]
