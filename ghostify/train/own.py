"""Losses and metrics of a caller's own, for networks of any task."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify.data.pools import Pool
from ghostify.data.preparation import Preparation
from ghostify.errors import GhostifyError, SettingsError, shown
from ghostify.graph.failure import describe_error
from ghostify.nn.modes import eval_mode, steady_train_mode
from ghostify.numerics.nested import map_tensors
from ghostify.numerics.random_state import keep_random_state
from ghostify.train.engine import combine
from ghostify.train.measured import Measured
from ghostify.train.objective import Objective

if TYPE_CHECKING:
    from lightning_fabric import Fabric

OwnLossFunction = Callable[[nn.Module, Any], Tensor | Mapping[str, Tensor]]
"""From a network and a batch to its loss, or to several by name, which are summed."""

OwnMetricFunction = Callable[[nn.Module, Any], float | Mapping[str, float]]
"""From a network and batches (that can be gone through again) to a figure, or several by name."""


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with all tensors (and all else that has ``to``) on a device."""

    def move(leaf: Any) -> Any:
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    # Data classes are no nodes of pytree's, and what has its own ``to`` need not hold tensors.
    return map_tensors(lambda tensor: tensor.to(device), pytree.tree_map(move, batch))


@dataclass(frozen=True)
class Ready:
    """From the batches of a pool to what a caller's function is given.

    Attributes:
        preparation: How images of files become the network's input; None where batches are the
            caller's own.
    """

    preparation: Preparation | None

    def __call__(self, batch: Any, device: torch.device) -> Any:
        """The batch on a device."""
        moved = to_device(batch, device)
        if self.preparation is None:
            return moved
        images, labels = moved
        return self.preparation.normalise(images), labels


class _Sealed:
    """A batch that mixed precision does not look into: coordinates of boxes stay exact."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch


class OwnLoss(Objective):
    """A caller's own loss.

    Args:
        function: The loss.
        ready: Makes a batch ready for it.
    """

    def __init__(self, function: OwnLossFunction, ready: Ready) -> None:
        self._function, self._ready = function, ready
        self.losses: tuple[str, ...] = ()

    @property
    def own_losses(self) -> tuple[str, ...]:
        """Names of the losses, as the first batch told them."""
        return tuple(name for name in self.losses if name != "features")

    def inputs(self, batch: Any, fabric: Fabric) -> _Sealed:
        """The batch."""
        return _Sealed(self._ready(batch, fabric.device))

    def compute(self, network: nn.Module, inputs: _Sealed) -> dict[str, Tensor]:
        """The loss, by names.

        Raises:
            SettingsError: It fails, or is no loss.
        """
        try:
            value = self._function(network, inputs.batch)
        except GhostifyError:
            raise
        except Exception as error:
            raise SettingsError(
                f"The loss {label_of(self._function)} fails ({describe_error(error)}): give one "
                "that takes the network and a batch of the data."
            ) from error
        parts = {f"own/{k}": v for k, v in value.items()} if isinstance(value, Mapping) else {
            "own": value
        }  # fmt: skip
        for part in parts.values():
            if not isinstance(part, Tensor) or part.numel() != 1:
                what = f"a tensor {tuple(part.shape)}" if isinstance(part, Tensor) else shown(part)
                raise SettingsError(
                    f"The loss {label_of(self._function)} gives {what}: return a tensor of one "
                    "number, or a dict of them."
                )
        return {name: part.reshape(()) for name, part in parts.items()}

    def learn_names(self, made: Mapping[str, Tensor]) -> None:
        """Take the names of the losses from those of a first batch.

        Raises:
            SettingsError: None of them depends on the network's weights.
        """
        if not any(part.requires_grad for part in made.values()):
            raise SettingsError(
                f"The loss {label_of(self._function)} does not depend on any weight that is tuned: "
                "compute it of the network that it is given, with gradients."
            )
        self.losses = tuple(made)

    def parts(
        self, batch: Any, made: dict[str, Tensor], told: Any, fabric: Fabric
    ) -> dict[str, Tensor]:
        """The loss, as the student computed it."""
        if made.keys() != set(self.own_losses):
            raise SettingsError(
                f"The loss {label_of(self._function)} gives {', '.join(made) or 'nothing'}, and at "
                f"first it gave {', '.join(self.own_losses)}: return the same names each time."
            )
        return made

    def ready_teacher(self, teacher: nn.Module) -> nn.Module:
        """The teacher in train mode, as many losses want it, what varies in that mode held."""
        return steady_train_mode(teacher)


class Batches:
    """Batches of a pool on a device, in order; can be gone through again and again.

    Args:
        pool: Where they come from.
        ready: Makes them ready.
        size: Samples of a batch, where the pool does not say it.
        samples: How many samples to take, chosen by the seed; all where not given.
        seed: Of the choice, and of what the data set draws.
        fabric: Knows the device.
    """

    def __init__(
        self, pool: Pool, ready: Ready, size: int, samples: int | None, seed: int, fabric: Fabric
    ) -> None:
        self._pool, self._ready, self._seed, self._fabric = pool, ready, seed, fabric
        self._parts = pool.in_order(size, samples, seed)

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._pool.batches(self._parts, self._seed, False):
            yield self._ready(batch, self._fabric.device)


@dataclass(frozen=True)
class OwnMetric:
    """A caller's own metric.

    Attributes:
        function: The metric.
        pool: The batches that it is measured on; each process goes through all of them.
        ready: Makes a batch ready for it.
        seed: Of the choice of samples, and of what the data set draws.
        samples: How many to measure on; all where not given.
    """

    function: OwnMetricFunction
    pool: Pool
    ready: Ready
    seed: int
    samples: int | None = None
    keeps_best = True

    @torch.no_grad()
    def measure(self, fabric: Fabric, network: nn.Module, size: int) -> Measured:
        """What the metric gives of a network, in eval mode, the same in all processes.

        Raises:
            SettingsError: It fails, or gives no numbers.
        """
        start = time.perf_counter()
        batches = Batches(self.pool, self.ready, size, self.samples, self.seed, fabric)
        try:
            with eval_mode(network), fabric.autocast(), keep_random_state(self.seed):
                value = self.function(network, batches)
            given = value if isinstance(value, Mapping) else {"metric": value}
            figures = {str(name): float(figure) for name, figure in given.items()}
        except GhostifyError:
            raise
        except Exception as error:
            raise SettingsError(
                f"The metric {label_of(self.function)} fails ({describe_error(error)}): give one "
                "that takes the network and batches, and returns a number or a dict of numbers."
            ) from error
        if not figures:
            raise SettingsError(
                f"The metric {label_of(self.function)} gives an empty dict: return a number, or a "
                "dict of numbers whose first one tells the best weights."
            )
        # Kernels of one GPU and another may round in other ways: all must agree on what is best.
        agreed = combine(fabric, torch.tensor(list(figures.values()), dtype=torch.float64), "mean")
        seconds = time.perf_counter() - start
        return Measured(dict(zip(figures, agreed.tolist(), strict=True)), seconds)


def label_of(function: Callable[..., Any]) -> str:
    """A function's name, for messages."""
    return getattr(function, "__qualname__", type(function).__name__)
