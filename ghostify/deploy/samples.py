"""Calibration images as the runs of a network of a fixed or any batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ghostify.data.calibration import example_of, images_for
from ghostify.data.spool import Spool
from ghostify.deploy.program import tensors_of
from ghostify.errors import ModelError, SettingsError
from ghostify.graph.calls import Arguments
from ghostify.graph.inputs import ExampleInputs
from ghostify.progress import Progress, silent
from ghostify.settings.calibration import Calibration


@dataclass(frozen=True)
class Samples:
    """Images to calibrate a file with and to compare it on.

    Attributes:
        images: All alike.
        batches: Images at a time: each run has one of these numbers, in turn.
    """

    images: Spool
    batches: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.images.is_even:
            raise SettingsError("The calibration images differ in shape: give images of one shape.")
        if len(self.images) < sum(self.batches):
            raise SettingsError(
                f"{len(self.images)} calibration images are too few: "
                f"give {sum(self.batches)} or more."
            )

    def runs(self, most: int | None = None) -> Iterator[tuple[Any, ...]]:
        """Positional arguments of each run; what is left at the end is no whole batch.

        Args:
            most: Images in all; None for all there are. Every number of images has a run.
        """
        end = len(self.images)
        if most is not None:
            end = min(end, max(most, sum(self.batches)))
        start, turn = 0, 0
        while start + (size := self.batches[turn % len(self.batches)]) <= end:
            yield _positional(self.images.slice((start, start + size)))
            start, turn = start + size, turn + 1


def _positional(given: Tensor | Arguments) -> tuple[Any, ...]:
    if isinstance(given, Tensor):
        return (given,)
    if given.kwargs:
        raise ModelError(
            "The calibration data are keywords, which no runtime takes: wrap the network in a "
            "module whose forward takes them by position."
        )
    return given.args


def example_from(network: nn.Module, calibration: Calibration | None) -> ExampleInputs | None:
    """One sample as example inputs, where the data are no folder and can be read again."""
    found = None if calibration is None else example_of(network, calibration)
    return None if found is None else (found.args if not found.kwargs else found.kwargs)


def samples_for(
    network: nn.Module,
    calibration: Calibration,
    args: tuple[Any, ...],
    batches: tuple[int, ...],
    progress: Progress = silent,
) -> Samples:
    """The images that a calibration names, for a network that takes such arguments.

    Raises:
        DataError: They can't be read, or the network can't take them.
        SettingsError: They are too few, or not alike.
    """
    first = tensors_of(args)[0]
    images, _ = images_for(network, calibration, tuple(first.shape[1:]), progress)
    return Samples(images, batches)
