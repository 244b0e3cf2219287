"""The stages of a network as a table: what they cost, and what Eq. 13 and 14 promise."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import prod
from typing import Any

from ghostify.cost.figures import Cost, How, add_costs
from ghostify.cost.theory import stage_ratio
from ghostify.documents import Column, Document, Table, Writable, amount, counted, times
from ghostify.documents.page import Page
from ghostify.graph.stages import NoStage, Stage
from ghostify.passes.g_ghost import search_stages
from ghostify.passes.stage_build import complicated_channels
from ghostify.passes.survey import Survey
from ghostify.reports.compare_stages import block_costs
from ghostify.reports.stages_page import stages_page
from ghostify.settings import DEFAULT_RATIO, GGhost
from ghostify.settings.selectors import value_for

SCHEMA = "ghostify.stages/1"
"""Name and version of the JSON form; the number goes up when a key changes its meaning or goes."""


@dataclass(frozen=True)
class StageInfo:
    """One stage of a network.

    Attributes:
        name: Its name, as ``keep``, ``only`` and ``ratio`` take it.
        blocks: The modules of each block.
        shape: What each block gives, ``(C, H, W)`` (``(H, W, C)`` where its channels are last).
        cost: What it costs.
        macs_share: Its share of the network's MACs; None where they are unknown.
        params_share: Its share of the parameters.
        ratio: The ghost ratio that the equations are for.
        eq13: How many times fewer MACs Eq. 13 promises; None where MACs are unknown.
        eq14: How many times fewer parameters Eq. 14 promises.
    """

    name: str
    blocks: tuple[tuple[str, ...], ...]
    shape: tuple[int, ...]
    cost: Cost
    macs_share: float | None
    params_share: float
    ratio: float
    eq13: float | None
    eq14: float | None


@dataclass(frozen=True)
class StageTable(Writable):
    """The stages that were found, and what looks like one and is none.

    Attributes:
        model: Name of the network, or of its class.
        stages: The stages, in network order.
        left: What is no stage, and why.
        inputs: Shapes of the inputs that MACs are for.
        notes: Where tracing or counting stopped, or how else it was counted.
        how: How MACs were got: ``"shapes"``, ``"run"`` or ``"partial"``.
    """

    model: str
    stages: tuple[StageInfo, ...]
    left: tuple[NoStage, ...]
    inputs: str = ""
    notes: tuple[str, ...] = ()
    how: How = "shapes"

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "schema": SCHEMA,
            "model": self.model,
            "inputs": self.inputs,
            "how": self.how,
            "stages": [asdict(stage) for stage in self.stages],
            "left": [asdict(left) for left in self.left],
            "notes": list(self.notes),
        }

    def document(self) -> Document:
        """The table, and what is no stage."""
        lines = [f"no stage: {left.name}, {left.reason}" for left in self.left]
        if self.inputs:
            lines.append(f"MACs are for an input of {self.inputs}")
        title = f"{self.model}, {counted(len(self.stages), 'stage')}"
        return Document(title, [Table(INFO_COLUMNS, self.stages)], footnotes=[*lines, *self.notes])

    def page(self) -> Page:
        """Each stage, and what the equations leave of it."""
        return stages_page(self)


INFO_COLUMNS = (
    Column("stage", lambda row: row.name),
    Column("blocks", lambda row: str(len(row.blocks))),
    Column("shape", lambda row: " x ".join(map(str, row.shape)), narrow=False),
    Column("MACs", lambda row: amount(row.cost.macs)),
    Column("share", lambda row: _percent(row.macs_share)),
    Column("params", lambda row: amount(row.cost.params)),
    Column("share", lambda row: _percent(row.params_share)),
    Column("lambda", lambda row: f"{row.ratio:g}", narrow=False),
    Column("Eq. 13", lambda row: times(row.eq13)),
    Column("Eq. 14", lambda row: times(row.eq14)),
)


def tabulate_stages(name: str, survey: Survey, settings: GGhost) -> StageTable:
    """The stages of a network, and what the settings promise of each."""
    finding = search_stages(survey, settings.min_blocks)
    costs = survey.count.by_module()
    stages = tuple(_info(stage, survey, costs, settings) for stage in finding.stages)
    stops = (
        f"tracing stopped in {stop.module or 'the network'}: {stop.where}"
        for stop in survey.seen.stops[:1]
    )
    notes = (*stops, *survey.count.notes_of_run())
    return StageTable(name, stages, finding.left, survey.count.inputs, notes, survey.count.how)


def _info(stage: Stage, survey: Survey, costs: dict[str, Cost], settings: GGhost) -> StageInfo:
    names = tuple(tuple(map(stage.region.qualify, block.modules)) for block in stage.blocks)
    blocks = block_costs(names, costs)
    cost, total = add_costs(blocks), survey.count.total
    ratio = value_for(stage.name, settings.ratio, DEFAULT_RATIO)
    macs = [b.macs for b in blocks if b.macs is not None]
    cheap = _cheap_params(stage.channels, ratio, settings)
    positions = prod(stage.shape[1:]) // stage.channels
    known = len(macs) == len(blocks) and sum(macs) > 0
    # Where the stage begins with what enters it, its first block costs nothing.
    begin = [0] if stage.from_input else []
    return StageInfo(
        name=stage.name,
        blocks=names,
        shape=stage.shape[1:],
        cost=cost,
        macs_share=cost.macs / total.macs if cost.macs is not None and total.macs else None,
        params_share=cost.params / total.params if total.params else 0.0,
        ratio=ratio,
        eq13=stage_ratio([*begin, *macs], ratio, cheap * positions) if known else None,
        eq14=stage_ratio([*begin, *(b.params for b in blocks)], ratio, cheap)
        if cost.params
        else None,
    )


def _cheap_params(channels: int, ratio: float, settings: GGhost) -> int:
    """Weights of the cheap operation, which are its MACs at each position too."""
    if not isinstance(settings.cheap, int):
        return 0
    ghosts = channels - complicated_channels(channels, ratio, settings.divisor)
    inputs = ghosts if settings.entry == "slice" else channels
    return inputs * ghosts * settings.cheap**2


def _percent(share: float | None) -> str:
    return "?" if share is None else f"{100 * share:.0f}%"
