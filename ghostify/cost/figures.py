"""The figures of a network's cost, as data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

How = Literal["shapes", "run", "partial"]
"""How a network was counted.

``"shapes"``: on shapes alone. ``"run"``: its forward reads its data, so that it was run once for
real; the figures are those of the way that it took. ``"partial"``: something of it was not counted.
"""


@dataclass(frozen=True)
class Cost:
    """Costs of a layer or a network.

    Attributes:
        params: Parameters; shared ones once.
        macs: Multiply-accumulates of one forward pass; None where it could not be run to its end.
        acts: Activations: output elements of all convolutions; None likewise.
        conv_macs: The MACs of convolutions alone (what the paper's CIFAR tables count).
    """

    params: int = 0
    macs: int | None = 0
    acts: int | None = 0
    conv_macs: int | None = 0


@dataclass(frozen=True)
class LayerCount:
    """Costs of one module without its submodules.

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
        total: Of the whole network; MACs and activations are None where the pass stopped early.
        layers: Of each module that has parameters of its own or computes MACs, in calling order;
            those that were not reached before a pass stopped have no MACs and activations either.
        inputs: Shapes of the inputs that were used.
        assumed: Whether those inputs were worked out (the caller gave none).
        uncounted: Ops that may have MACs the table has no rule for, and how often they ran.
        stopped: Where and why the forward pass stopped early; None when it ran through.
        output: Shapes of the output, None when the forward pass stopped early.
        shapes_end: Where shapes alone carried it no further, so that it was run for real; None
            where it was not.
        ran_on: What it was run on for real; empty where it was not.
    """

    total: Cost
    layers: tuple[LayerCount, ...]
    inputs: str = ""
    assumed: bool = False
    uncounted: dict[str, int] = field(default_factory=dict)
    stopped: str | None = None
    output: Any = None
    shapes_end: str | None = None
    ran_on: str = ""

    @property
    def how(self) -> How:
        """How it was counted."""
        if self.missing is not None:
            return "partial"
        return "shapes" if self.shapes_end is None else "run"

    @property
    def missing(self) -> str | None:
        """The part that was not counted, or the reason; None where all was."""
        if self.stopped is not None:
            return f"the pass stopped in {self.stopped}"
        ops = ", ".join(f"{op} ({times}x)" for op, times in self.uncounted.items())
        return f"no rule says the MACs of {ops}" if ops else None

    def by_module(self) -> dict[str, Cost]:
        """The cost of every module with all that is inside it, by qualified name."""
        inside: dict[str, list[Cost]] = {}
        for layer in self.layers:
            parts = layer.name.split(".")
            for end in range(1, len(parts) + 1):
                inside.setdefault(".".join(parts[:end]), []).append(layer.cost)
        return {name: add_costs(costs) for name, costs in inside.items()}


def worst(*ways: How) -> How:
    """The weakest of the ways in which figures were counted.

    Example:
        >>> worst("shapes", "run"), worst("run", "partial")
        ('run', 'partial')
    """
    order: tuple[How, ...] = ("shapes", "run", "partial")
    return max(ways, key=order.index)


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
