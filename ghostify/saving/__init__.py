"""Saved networks: a folder of weights and a recipe, and how a network came about."""

from ghostify.saving.building import build, network_of
from ghostify.saving.folder import (
    RECIPE,
    check_named,
    check_target,
    is_saved,
    read,
    read_whole,
    restore,
    write_network,
)
from ghostify.saving.hub import fetch_folder, is_hub_name, push
from ghostify.saving.loading import load
from ghostify.saving.recipe import counted_inputs_of

__all__ = [
    "RECIPE",
    "build",
    "check_named",
    "check_target",
    "fetch_folder",
    "counted_inputs_of",
    "is_hub_name",
    "is_saved",
    "load",
    "network_of",
    "push",
    "read",
    "read_whole",
    "restore",
    "write_network",
]
