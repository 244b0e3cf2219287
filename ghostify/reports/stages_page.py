"""The page of a network's stages: what each costs, and what Eq. 13 and 14 would leave of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from ghostify.documents import amount, counted, times
from ghostify.documents.page import (
    Bar,
    Headline,
    Headlines,
    Number,
    Page,
    Profile,
    Section,
    page_of,
)

if TYPE_CHECKING:
    from ghostify.reports.stage_table import StageInfo, StageTable


def stages_page(table: StageTable) -> Page:
    """The page of a table of stages."""
    plain = page_of(table.document())
    title = f"{counted(len(table.stages), 'stage')} found"
    charts = _charts(table) if table.stages else ()
    return replace(plain, title=table.model, kind=title, sections=[*charts, *plain.sections])


def _charts(table: StageTable) -> Iterator[Section]:
    params = sum(stage.params_share for stage in table.stages)
    shares = [stage.macs_share for stage in table.stages if stage.macs_share is not None]
    macs = sum(shares) if len(shares) == len(table.stages) else None
    items = [("MACs in stages", macs), ("parameters in stages", params)]
    yield Headlines(
        [
            Headline("stages", Number(str(len(table.stages)), len(table.stages))),
            *(Headline(label, _percent(share), left=share) for label, share in items),
        ]
    )
    for name, words, eq in (("macs", "MACs", "eq13"), ("params", "parameters", "eq14")):
        bars = [
            Bar(stage.name, getattr(stage.cost, name), _left(stage, name, eq), "stage",
                _hover(stage))
            for stage in table.stages
        ]  # fmt: skip
        number = "13" if eq == "eq13" else "14"
        yield Profile(
            f"Each stage: {words}",
            bars,
            {"stage": f"left of it by Eq. {number}"},
            "What would be left with the ratios that the table names.",
        )


def _left(stage: StageInfo, name: str, eq: str) -> float | None:
    cost, ratio = getattr(stage.cost, name), getattr(stage, eq)
    return cost / ratio if cost is not None and ratio else None


def _hover(stage: StageInfo) -> list[str]:
    return [
        f"{stage.name}: {counted(len(stage.blocks), 'block')}, lambda {stage.ratio:g}",
        f"MACs {amount(stage.cost.macs)}, Eq. 13 promises {times(stage.eq13)}x fewer",
        f"parameters {amount(stage.cost.params)}, Eq. 14 promises {times(stage.eq14)}x fewer",
    ]


def _percent(share: float | None) -> Number:
    return Number("?" if share is None else f"{share:.0%}", share)
