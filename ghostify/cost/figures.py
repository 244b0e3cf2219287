"""The figures of a network's cost, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cost:
    """What a layer or a network costs.

    Attributes:
        params: Parameters; shared ones once.
        macs: Multiply-accumulates of one forward pass; None where it could not be run.
        acts: Activations: output elements of all convolutions; None likewise.
        conv_macs: The MACs of convolutions alone (what the paper's CIFAR tables count).
    """

    params: int = 0
    macs: int | None = 0
    acts: int | None = 0
    conv_macs: int | None = 0


@dataclass(frozen=True)
class LayerCount:
    """What one module computes itself, its submodules left out.

    Attributes:
        name: Qualified name of the module (its first, when it has several).
        kind: Name of the module's class.
        cost: Parameters of its own, MACs and activations summed over all calls.
        calls: How often it was called in the forward pass.
        output_shape: Shape of its last output, where that is one tensor.
    """

    name: str
    kind: str
    cost: Cost
    calls: int
    output_shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Count:
    """The costs of a network.

    Attributes:
        total: Of the whole network.
        layers: Of each module that has parameters of its own or computes MACs, in calling order.
        inputs: Shapes of the inputs that were used.
        assumed: Whether those inputs were worked out (the caller gave none).
        uncounted: Ops that may have MACs the table has no rule for, and how often they ran.
        stopped: Where and why the forward pass stopped early; None when it ran through.
        output: Shapes of the output, None when the forward pass stopped early.
    """

    total: Cost
    layers: tuple[LayerCount, ...]
    inputs: str = ""
    assumed: bool = False
    uncounted: dict[str, int] = field(default_factory=dict)
    stopped: str | None = None
    output: Any = None

    def by_module(self) -> dict[str, Cost]:
        """The cost of every module with all that is inside it, by qualified name."""
        inside: dict[str, list[Cost]] = {}
        for layer in self.layers:
            parts = layer.name.split(".")
            for end in range(1, len(parts) + 1):
                inside.setdefault(".".join(parts[:end]), []).append(layer.cost)
        return {name: add_costs(costs) for name, costs in inside.items()}


def add_costs(costs: Iterable[Cost]) -> Cost:
    """Sum of costs; None (unknown) where any is unknown."""
    rows = list(costs)

    def total(values: list[int | None]) -> int | None:
        return None if None in values else sum(v for v in values if v is not None)

    return Cost(
        params=sum(c.params for c in rows),
        macs=total([c.macs for c in rows]),
        acts=total([c.acts for c in rows]),
        conv_macs=total([c.conv_macs for c in rows]),
    )
