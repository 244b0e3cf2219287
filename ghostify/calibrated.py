"""What calibration images do for a conversion: they choose s, and start the new parts."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from ghostify.errors import SettingsError
from ghostify.passes.survey import Survey
from ghostify.saving.history import provenance_of, remember
from ghostify.settings import CGhost, GGhost, Settings
from ghostify.settings.base import check_number

if TYPE_CHECKING:
    from ghostify.warmstart import WarmStartSettings

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Said = Callable[[str], None]

OPTIONS = {
    "calibration_samples": "samples",
    "reconstruct_minutes": "minutes",
    "calibration_seed": "seed",
    "mean": "mean",
    "std": "std",
}
"""A conversion's options, and the warm start's settings that they are."""


@dataclass(frozen=True)
class Calibrated:
    """The options of a conversion that are about calibration images.

    Attributes:
        calibration: The images, or what they are in (see `ghostify.data.calibration.gather`), or
            ``"data-free"``.
        settings: How the warm start is made.
        target_macs: Part of the MACs to leave at most; None where s is given.
        said: Told what is done now.
    """

    calibration: Any
    settings: WarmStartSettings
    target_macs: float | None
    said: Said

    @classmethod
    def take(cls, options: dict[str, Any]) -> Calibrated | None:
        """Take these options out of a conversion's; None where there are none.

        Raises:
            SettingsError: Some need images, and there are none.
        """
        calibration, said = options.pop("calibration", None), options.pop("progress", None)
        given = {own: options.pop(name) for name, own in OPTIONS.items() if name in options}
        target = options.pop("target_macs", None)
        if calibration is None:
            names = [*given, *(["target_macs"] if target is not None else [])]
            if names:
                raise SettingsError(
                    f"{', '.join(names)} given without calibration: give images, "
                    "calibration=FOLDER."
                )
            return None
        from ghostify.warmstart import DATA_FREE, WarmStartSettings

        if target is not None:
            check_number("target_macs", target, 0, 1)
            if isinstance(calibration, str) and calibration == DATA_FREE:
                raise SettingsError("target_macs needs images: give calibration=FOLDER.")
        silent: Said = lambda _: None  # noqa: E731
        return cls(calibration, WarmStartSettings(**given), target, said or silent)

    def choose(
        self, network: nn.Module, settings: Settings, survey: Survey
    ) -> tuple[Settings, Calibrated]:
        """Settings with an s or ratio for each part, where a target is given; and images read.

        Raises:
            SettingsError: The mode has no s, or no choice of s leaves so little.
            DataError: The images can't be read.
        """
        if self.target_macs is None:
            return settings, self
        from ghostify.data.calibration import check_images, gather
        from ghostify.data.preparation import preparation_of
        from ghostify.warmstart.allocation.layers import choose_s
        from ghostify.warmstart.allocation.stages import choose_ratio

        chosen, prepare = self.settings, None
        if not isinstance(settings, CGhost | GGhost):
            raise SettingsError(
                f"target_macs chooses s or the ratio, and mode={settings.mode!r} has both: "
                "convert in one mode, or leave it."
            )
        is_folder = isinstance(self.calibration, str | Path)
        if is_folder:
            size = image_size(survey.count.inputs)
            prepare = preparation_of(network, size, chosen.mean, chosen.std)
        self.said("reading calibration images")
        images = gather(self.calibration, chosen.samples, chosen.seed, prepare)
        check_images(copy.deepcopy(network).eval(), images)
        given = (images, self.target_macs, survey)
        options: dict[str, Any] = {"seed": chosen.seed, "said": self.said}
        found: Settings
        if isinstance(settings, CGhost):
            found = choose_s(network, settings, *given, **options)
        else:
            found = choose_ratio(network, settings, *given, **options)
        # A loader may be at its end now.
        return found, self if is_folder else replace(self, calibration=images)

    def start(self, converted: ModuleT, original: nn.Module) -> ModuleT:
        """The converted network, started from the original's outputs."""
        from ghostify.warmstart import warm_start_

        known = provenance_of(converted)
        size = image_size(known.report.inputs if known.report is not None else "")
        result = warm_start_(
            converted, original, self.calibration, self.settings, input_size=size, said=self.said
        )
        start = result.summary()
        told = None if known.report is None else start.annotate(known.report)
        remember(converted, replace(known, report=told, start=start))
        return converted


def image_size(inputs: str) -> tuple[int, ...]:
    """Of one input ("1x3x32x32") what follows the batch; nothing where there are several."""
    return tuple(int(n) for n in inputs.split("x")[1:]) if inputs and "," not in inputs else ()
