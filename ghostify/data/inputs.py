"""The image that a network takes: its size and normalisation."""

from __future__ import annotations

from torch import nn

from ghostify.cost.counting import count
from ghostify.data.calibration import preprocessing_of
from ghostify.data.images import Recipe
from ghostify.saving.history import provenance_of


def recipe_of(
    model: nn.Module,
    input_size: tuple[int, ...] | None,
    mean: tuple[float, ...] | None,
    std: tuple[float, ...] | None,
) -> tuple[Recipe, tuple[str, ...]]:
    """How images become a network's input, and what had to be assumed for that.

    Args:
        model: The network; its configuration says what the caller does not.
        input_size: ``(C, H, W)``.
        mean: Of the channels, images being in 0..1.
        std: Likewise.
    """
    size = _size(model) if input_size is None else tuple(input_size)
    prepare = preprocessing_of(model, size, mean, std)
    notes = ("normalisation assumed (ImageNet's mean and std): the network names none",)
    return Recipe.of(model, prepare), notes if prepare.assumed else ()


def _size(model: nn.Module) -> tuple[int, ...]:
    """What follows the batch in the inputs that the network's costs were counted for."""
    report = provenance_of(model).report
    inputs = report.inputs if report is not None and report.inputs else count(model).inputs
    shape = inputs.split(", ")[0].split("x")[1:]
    return tuple(int(size) for size in shape)
