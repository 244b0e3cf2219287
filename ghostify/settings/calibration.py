"""Calibration: the images that a warm start is fitted to, and how."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ghostify.errors import SettingsError, shown
from ghostify.settings.base import check_not_negative, check_number, check_seed, check_whole

DATA_FREE = "data-free"
"""In place of images: fit from the weights and the norms' statistics alone."""

DATA = frozenset({"images", "inputs"})
"""Fields that are no plain data: a plan that was written has none."""

SHORT_FORMS = {
    "calibration_samples": "samples",
    "calibration_seed": "seed",
    "reconstruct_minutes": "minutes",
    "inputs": "inputs",
    "mean": "mean",
    "std": "std",
}
"""Options of a conversion that are fields of its calibration."""


@dataclass(frozen=True)
class Calibration:
    """The images that a warm start is fitted to, and how.

    Attributes:
        images: What the network takes, without labels: a folder of images, a tensor ``(N, ...)``, a
            tuple or mapping of such tensors, a data set, a loader; or ``"data-free"``. A plan that
            was written and read again has none.
        inputs: A function from one batch of the loader (one item of the data set) to what the
            network takes of it: a tensor, a tuple of positional arguments, or a mapping.
        samples: How many of them to take.
        seed: Of their choice, and of the order of steps.
        minutes: Most minutes of reconstruction; 0 for none, None for no bound but the steps.
        block_steps: Most steps of reconstruction on each block.
        network_steps: Most steps of reconstruction of the whole network.
        mean: Of image files' channels; the network's configuration says it where this does not.
        std: Likewise.

    Raises:
        SettingsError: A number makes no sense.

    Example:
        >>> Calibration("images/", samples=128).to_dict()["samples"]
        128
    """

    images: Any = field(default=None, compare=False, repr=False)
    inputs: Callable[[Any], Any] | None = field(
        default=None, compare=False, repr=False, kw_only=True
    )
    samples: int = 512
    seed: int = 0
    minutes: float | None = 0.0
    block_steps: int = 100
    network_steps: int = 1500
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        if self.inputs is not None and not callable(self.inputs):
            raise SettingsError(
                f"inputs={shown(self.inputs)} is no function: give one from a batch of the data to "
                "what the network takes of it."
            )
        check_whole("calibration_samples", self.samples, 1)
        check_seed("calibration_seed", self.seed)
        if self.minutes is not None:
            check_not_negative("reconstruct_minutes", self.minutes, math.inf)
        for name in ("block_steps", "network_steps"):
            check_whole(name, getattr(self, name), 0)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None:
                for value in values:
                    check_number(name, value, -math.inf, math.inf)
                object.__setattr__(self, name, tuple(values))

    @property
    def is_folder(self) -> bool:
        """Whether the images are files of a folder, which are read when they are needed."""
        return isinstance(self.images, str | os.PathLike) and not self.is_data_free

    @property
    def is_data_free(self) -> bool:
        """Whether there are no images, and the weights alone are fitted to."""
        return isinstance(self.images, str) and self.images == DATA_FREE

    @classmethod
    def from_options(cls, images: Any, options: Mapping[str, Any]) -> Calibration | None:
        """The calibration that a conversion's options mean; None where there is none.

        Args:
            images: What ``calibration`` is: images, a whole `Calibration`, or None.
            options: Options by the names of `SHORT_FORMS`.

        Raises:
            SettingsError: Options without images, or a number that makes no sense.
        """
        if images is None:
            if options:
                raise SettingsError(
                    f"{', '.join(options)} given without calibration: give images, "
                    "calibration=FOLDER."
                )
            return None
        own = {SHORT_FORMS[name]: value for name, value in options.items()}
        return replace(images, **own) if isinstance(images, cls) else cls(images, **own)

    def without_images(self) -> Calibration:
        """The same, without what is large; that there was no data stays."""
        return self if self.is_data_free else replace(self, images=None, inputs=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: how it was fitted, without the images."""
        fields = [item.name for item in dataclasses.fields(self) if item.name not in DATA]
        values = {name: getattr(self, name) for name in fields}
        plain = {key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}
        return {"from": DATA_FREE if self.is_data_free else "images", **plain}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """A calibration, without its images, from what `to_dict` gave.

        Raises:
            SettingsError: The data is none, or a value makes no sense.
        """
        known = {item.name for item in dataclasses.fields(cls)} - DATA | {"from"}
        if not isinstance(data, Mapping) or not data.keys() <= known:
            raise SettingsError(
                f"{shown(data)} is no calibration: give {', '.join(sorted(known))}."
            )
        values = {key: value for key, value in data.items() if key != "from"}
        for name in ("mean", "std"):
            if not isinstance(values.get(name), list | None):
                raise SettingsError(f"{name}={shown(values[name])} makes no sense: give numbers.")
        return cls(DATA_FREE if data.get("from") == DATA_FREE else None, **values)
