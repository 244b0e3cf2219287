"""Stages before and after, measured and by Eq. 13 and 14, and what parts the two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

from ghostify.cost.figures import Cost, Count, add_costs
from ghostify.cost.theory import stage_cost, stage_ratio
from ghostify.plans import Plan, StageRebuild
from ghostify.reports.stage_rows import Gap, StageRow

Figure = Callable[[Cost], float | None]


def compare_stages(plans: Sequence[Plan], before: Count, after: Count) -> tuple[StageRow, ...]:
    """The stages that were rebuilt, in network order, then those that were left.

    Args:
        plans: The conversions that lie between the two counts.
        before: Costs of the original.
        after: Costs of the converted network.
    """
    costs, new_costs = before.by_module(), after.by_module()
    rebuilt = [_rebuilt(item, costs, new_costs) for plan in plans for item in plan.stages]
    left = [
        StageRow(kept.name, 0, "", Cost(), Cost(), reason=kept.reason)
        for plan in plans
        for kept in plan.kept_stages
    ]
    return (*rebuilt, *left)


def block_costs(blocks: Iterable[Iterable[str]], costs: Mapping[str, Cost]) -> list[Cost]:
    """The cost of each block, from the names of its modules."""
    return [add_costs(costs.get(name, Cost()) for name in names) for names in blocks]


def _rebuilt(
    item: StageRebuild, costs: Mapping[str, Cost], new_costs: Mapping[str, Cost]
) -> StageRow:
    blocks = block_costs(item.blocks, costs)
    parts = _parts(item, new_costs)
    macs = _Comparison(blocks, parts, item.ratio, _macs)
    params = _Comparison(blocks, parts, item.ratio, _params)
    return StageRow(
        name=item.name,
        blocks=len(blocks),
        shape=" x ".join(map(str, item.out_shape[1:])),
        before=add_costs(blocks),
        after=new_costs.get(item.place, Cost()),
        ratio=item.ratio,
        channels=item.channels,
        complicated=item.complicated,
        eq13=macs.ratio,
        eq14=params.ratio,
        gaps=tuple(
            Gap(part, macs.gap(part), params.gap(part) or 0.0)
            for part in ("entry", "thin", "tail", "mix")
        ),
    )


def _parts(item: StageRebuild, costs: Mapping[str, Cost]) -> dict[str, list[Cost]]:
    """Costs of the new stage's parts."""

    def cost(part: str) -> Cost:
        return costs.get(f"{item.place}.{part}", Cost())

    has_last = f"{item.place}.last" in costs
    thin = [cost(f"thin.{i}") for i in range(len(item.blocks) - 1 - has_last)]
    return {
        "entry": thin[:1],
        "thin": thin[1:],
        "tail": [cost("last")] if has_last else [],
        "cheap": [cost("cheap")],
        "mix": [cost("mix")],
    }


class _Comparison:
    """One figure of a stage, measured and by the equation."""

    def __init__(
        self, blocks: Sequence[Cost], parts: Mapping[str, list[Cost]], ratio: float, of: Figure
    ) -> None:
        self._known = all(of(c) is not None for c in (*blocks, *chain(*parts.values())))
        if not self._known:
            return
        before = [of(cost) or 0.0 for cost in blocks]
        self._measured = {part: sum(of(c) or 0.0 for c in costs) for part, costs in parts.items()}
        last = before[-1:] if parts["tail"] else []
        between = before[2 : len(before) - len(last)]
        self._predicted = {
            "entry": (1 - ratio) * before[1],
            "thin": (1 - ratio) ** 2 * sum(between),
            "tail": (1 - ratio) ** 2 * sum(last),
            "mix": 0.0,
        }
        cheap = self._measured["cheap"]
        self._ratio = (
            stage_ratio(before, ratio, cheap) if stage_cost(before, ratio, cheap) else None
        )

    @property
    def ratio(self) -> float | None:
        """What the equation says."""
        return self._ratio if self._known else None

    def gap(self, part: str) -> float | None:
        """What a part costs beyond what the equation says of it."""
        return self._measured[part] - self._predicted[part] if self._known else None


def _macs(cost: Cost) -> float | None:
    return cost.macs


def _params(cost: Cost) -> float | None:
    return cost.params
