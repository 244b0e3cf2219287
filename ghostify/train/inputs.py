"""From a caller's data to batches that are ready for a network, a loss or a metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ghostify.cost.counting import count
from ghostify.data.opening import Data, is_path, open_batches, open_pool
from ghostify.data.pools import Pool
from ghostify.data.preparation import Preparation, preparation_of
from ghostify.saving.history import history_of
from ghostify.train.own import Ready


def input_size_of(model: nn.Module) -> tuple[int, ...]:
    """``(C, H, W)`` of the input that the network's costs were counted for."""
    report = history_of(model).report
    inputs = report.inputs if report is not None and report.inputs else count(model).inputs
    return tuple(int(size) for size in inputs.split(", ")[0].split("x")[1:])


@dataclass(frozen=True)
class ImageOptions:
    """How image files become the network's input, as far as the caller says it.

    Attributes:
        input_size: ``(C, H, W)``; worked out where not given.
        mean: Of the channels.
        std: Of the channels.
    """

    input_size: tuple[int, ...] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None

    def preparation(self, network: nn.Module) -> Preparation:
        """The preparation for a network."""
        size = self.input_size or input_size_of(network)
        return preparation_of(network, size, self.mean, self.std)


def open_any(
    data: Data, network: nn.Module, workers: int, wanted: ImageOptions
) -> tuple[Pool, Ready]:
    """Batches for a loss or metric of a caller's own, and what makes them ready for it.

    Args:
        data: A folder, whose images are prepared for the network; or batches of any kind.
        network: The network.
        workers: Processes that read.
        wanted: How image files become the network's input.

    Raises:
        DataError: The data can't be read.
    """
    if is_path(data):
        preparation = wanted.preparation(network)
        return open_pool(data, preparation, workers), Ready(preparation)
    return open_batches(data, workers), Ready(None)
