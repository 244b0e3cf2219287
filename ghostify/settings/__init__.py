"""Settings as data: a class for each mode, which goes to YAML or JSON and back."""

from ghostify.settings.base import Settings
from ghostify.settings.budgets import SHORT_FORMS_OF_BUDGETS, Budgets
from ghostify.settings.c_ghost import DEFAULT_D, DEFAULT_S, CGhost
from ghostify.settings.calibration import DATA_FREE, Calibration
from ghostify.settings.clock import Clock
from ghostify.settings.g_ghost import DEFAULT_RATIO, GGhost
from ghostify.settings.modes import (
    MODES,
    Auto,
    CGGhost,
    make_settings,
    settings_from_dict,
    settings_from_json,
    settings_from_yaml,
)

__all__ = [
    "Auto",
    "Budgets",
    "Calibration",
    "Clock",
    "DATA_FREE",
    "DEFAULT_D",
    "DEFAULT_RATIO",
    "DEFAULT_S",
    "MODES",
    "SHORT_FORMS_OF_BUDGETS",
    "CGGhost",
    "CGhost",
    "GGhost",
    "Settings",
    "make_settings",
    "settings_from_dict",
    "settings_from_json",
    "settings_from_yaml",
]
