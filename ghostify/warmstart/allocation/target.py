"""Settings that leave a part of the MACs: calibration images read, and the mode's choice made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from ghostify.data.calibration import images_for
from ghostify.errors import SettingsError
from ghostify.graph.inputs import image_size
from ghostify.graph.meta_copy import copy_network
from ghostify.nn.modes import to_single
from ghostify.passes.survey import Survey
from ghostify.progress import Progress
from ghostify.settings import Calibration, CGhost, GGhost, Settings
from ghostify.warmstart.allocation.layers import choose_s
from ghostify.warmstart.allocation.stages import choose_ratio

ALLOCATORS: dict[type[Settings], Callable[..., Settings]] = {CGhost: choose_s, GGhost: choose_ratio}
"""The function that chooses within a target, by the settings class of the mode."""


def choose_within_target(
    network: nn.Module,
    settings: Settings,
    calibration: Calibration,
    target_macs: float,
    survey: Survey,
    progress: Progress,
) -> tuple[Settings, Calibration]:
    """Settings with an s or ratio for each part, and the calibration with its images read.

    Args:
        network: The trained network; it is not changed.
        settings: What to convert; s or the ratio is what is chosen.
        calibration: Images, and how they are taken.
        target_macs: Part of the MACs to leave at most.
        survey: Of the network.
        progress: Told what is done now.

    Raises:
        SettingsError: The mode has no s or ratio to choose, or no choice leaves so little.
        CalibrationError: The images can't be read.
    """
    choose = ALLOCATORS.get(type(settings))
    if choose is None:
        raise SettingsError(
            f"target_macs chooses s or the ratio, and mode={settings.mode!r} has both: "
            "convert in one mode, or leave it."
        )
    progress("reading calibration images")
    teacher = to_single(copy_network(network).eval())
    images, _ = images_for(teacher, calibration, image_size(survey.count.inputs))
    options: dict[str, Any] = {"seed": calibration.seed, "progress": progress}
    chosen = choose(network, settings, images, target_macs, survey, **options)
    # A loader may be at its end now; a folder is read again, and what is said of it is noted.
    is_folder = isinstance(calibration.images, str | Path)
    return chosen, calibration if is_folder else replace(calibration, images=images)
