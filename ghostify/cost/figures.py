"""The figures of a network's cost, as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ghostify.documents import Column, Document, Printable, Table, amount, plain_columns

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
        varies: Whether its outputs have different shapes.
    """

    name: str
    kind: str
    cost: Cost
    calls: int
    output_shape: tuple[int, ...] | None = None
    varies: bool = False

    @property
    def maps(self) -> tuple[int, ...] | None:
        """Shape of all its outputs, where it is known and one."""
        return None if self.varies else self.output_shape

    @property
    def shape(self) -> str:
        """`output_shape` as text, ``1x64x112x112``; empty where it is unknown."""
        return "x".join(map(str, self.output_shape)) if self.output_shape else ""


@dataclass(frozen=True, repr=False)
class Count(Printable):
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
        form: How the inputs are nested, as plain data; None for images (see `describe_form`).
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
    form: Any = None

    def __repr__(self) -> str:
        total = self.total
        return (
            f"Count(params={total.params}, macs={total.macs}, acts={total.acts}, "
            f"layers={len(self.layers)}, inputs={self.inputs!r}, how={self.how!r})"
        )

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

    def notes(self) -> Iterator[str]:
        """What a reader of the figures must know."""
        if self.assumed and self.stopped is None:
            yield "that input was assumed: give input_size or example_inputs for another"
        yield from self.notes_of_run()
        idle = sum(1 for layer in self.layers if not layer.calls and layer.cost.params)
        if idle and self.stopped is None:
            yield (
                f"{idle} modules with parameters are not called in eval mode: "
                "they add no MACs of their own"
            )
        yield from self.notes_of_uncounted()

    def notes_of_run(self) -> Iterator[str]:
        """How the network was counted where shapes alone did not do; else nothing."""
        if self.stopped is not None:
            known = sum(layer.cost.macs or 0 for layer in self.layers)
            yield (
                f"MACs unknown, and activations: the network could not be run to its end on "
                f"{self.inputs}: {self.stopped}"
            )
            if known:
                yield f"partial: the layers up to there have {amount(known)} MACs"
        elif self.shapes_end is not None:
            yield (
                f"counted in one run for real, on {self.ran_on}, since the forward reads its data "
                f"({self.shapes_end}): MACs and activations are those of the way that it took"
            )

    def notes_of_uncounted(self) -> Iterator[str]:
        """The ops whose MACs are missing."""
        for op, times in self.uncounted.items():
            yield f"partial: {op} ran {times} times, and its MACs are not known and not counted"

    def document(self) -> Document:
        """The layers by cost, and the total."""
        return Document(
            tables=[cost_table(by_cost(self.layers))],
            totals=total_table(self.total, self.how),
            footnotes=[*input_note(self.inputs, self.total), *self.notes()],
        )


LONGEST = 20
"""Rows of layers or stages that a terminal shows before it folds the rest into a line."""


COST_COLUMNS = (
    Column("layer", lambda row: row.name),
    Column("kind", lambda row: row.kind, tiny=False),
    Column("output", lambda row: row.shape, narrow=False),
    Column("params", lambda row: amount(row.cost.params)),
    Column("MACs", lambda row: amount(row.cost.macs)),
    Column("activations", lambda row: amount(row.cost.acts), tiny=False),
)


def by_cost(rows: Iterable[Any]) -> list[Any]:
    """What has a ``cost``, the most expensive first."""
    return sorted(rows, key=lambda row: (-(row.cost.macs or 0), -row.cost.params))


def cost_table(rows: Sequence[Any], longest: int | None = LONGEST) -> Table:
    """The costs of layers that have a name, kind, shape and cost."""
    hidden = [] if longest is None else rows[longest:]
    macs = sum(row.cost.macs or 0 for row in hidden)
    return Table(
        COST_COLUMNS,
        rows,
        folded=f"{len(rows)} layers",
        longest=longest,
        rest=f"{len(hidden)} more layers with {amount(macs)} MACs" if hidden else "",
    )


def total_table(total: Cost, how: How) -> Table:
    """What a whole network costs."""
    rows = [(title, amount(value) + mark) for title, value, mark in total_rows(total, how)]
    return Table(plain_columns("", "total"), rows)


def total_rows(total: Cost, how: How) -> list[tuple[str, int | None, str]]:
    """Title of each figure, its value, and a mark where it was not counted whole."""

    def mark(value: int | None) -> str:
        return " (partial)" if how == "partial" and value is not None else ""

    return [
        ("params", total.params, ""),
        ("MACs", total.macs, mark(total.macs)),
        ("activations", total.acts, mark(total.acts)),
    ]


def input_note(inputs: str, total: Cost) -> list[str]:
    """The line that names the inputs, where MACs are known for them."""
    known = inputs and total.macs is not None
    return [f"MACs and activations are for an input of {inputs}"] if known else []


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
