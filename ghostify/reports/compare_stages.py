"""Stages before and after, measured and by Eq. 13 and 14, and what parts the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from operator import attrgetter

from ghostify.cost.figures import Cost, Count, add_costs
from ghostify.cost.theory import stage_cost, stage_ratio
from ghostify.plans import Plan, StageRebuild
from ghostify.reports.stage_rows import Gap, StageRow


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
    # What enters stands for a first block that costs nothing.
    counted = [Cost(), *blocks] if item.from_input else blocks
    eq13, macs = _compared(counted, parts, item.ratio, "macs")
    eq14, params = _compared(counted, parts, item.ratio, "params")
    return StageRow(
        name=item.name,
        blocks=len(blocks),
        shape=" x ".join(map(str, item.out_shape[1:])),
        before=add_costs(blocks),
        after=new_costs.get(item.place, Cost()),
        ratio=item.ratio,
        channels=item.channels,
        complicated=item.complicated,
        eq13=eq13,
        eq14=eq14,
        gaps=tuple(
            Gap(part, macs[part], params[part] or 0.0) for part in ("entry", "thin", "tail", "mix")
        ),
    )


def _parts(item: StageRebuild, costs: Mapping[str, Cost]) -> dict[str, list[Cost]]:
    """Costs of the new stage's parts."""

    def cost(part: str) -> Cost:
        return costs.get(f"{item.place}.{part}", Cost())

    has_last = f"{item.place}.last" in costs
    thin = [cost(f"thin.{i}") for i in range(len(item.blocks) - (not item.from_input) - has_last)]
    return {
        "entry": thin[:1],
        "thin": thin[1:],
        "tail": [cost("last")] if has_last else [],
        "cheap": [cost("cheap")],
        "mix": [cost("mix")],
    }


def _compared(
    blocks: Sequence[Cost], parts: Mapping[str, list[Cost]], ratio: float, figure: str
) -> tuple[float | None, dict[str, float | None]]:
    """The equation's ratio of a figure, and what each part costs beyond what it says."""
    of = attrgetter(figure)
    if any(of(cost) is None for cost in (*blocks, *chain(*parts.values()))):
        return None, dict.fromkeys(parts)
    before = [of(cost) for cost in blocks]
    measured = {part: sum(map(of, costs)) for part, costs in parts.items()}
    last = before[-1:] if parts["tail"] else []
    between = before[2 : len(before) - len(last)]
    predicted = {
        "entry": (1 - ratio) * before[1],
        "thin": (1 - ratio) ** 2 * sum(between),
        "tail": (1 - ratio) ** 2 * sum(last),
        "mix": 0.0,
    }
    cheap = measured["cheap"]
    by_equation = stage_ratio(before, ratio, cheap) if stage_cost(before, ratio, cheap) else None
    return by_equation, {part: measured[part] - predicted[part] for part in predicted}
