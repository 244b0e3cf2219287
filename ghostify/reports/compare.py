"""The report of a conversion: its plan beside what was counted before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from torch import nn

from ghostify.cost.figures import Cost, Count, worst
from ghostify.cost.theory import approximate_ratio, compression_ratio
from ghostify.documents import sizes
from ghostify.plans import MeasuredTimes, Plan, Replacement
from ghostify.reports.compare_stages import compare_stages
from ghostify.reports.conversion import Report
from ghostify.reports.layer_rows import LayerRow
from ghostify.reports.stage_rows import StageRow

RowT = TypeVar("RowT", LayerRow, StageRow)


def compare(name: str, plans: Sequence[Plan], before: Count, after: Count) -> Report:
    """Compare the costs of a network before and after its conversions.

    Args:
        name: What the network is called.
        plans: The conversions that lie between the two counts.
        before: Costs of the original.
        after: Costs of the converted network.
    """
    costs, new_costs = before.by_module(), after.by_module()
    order = {layer.name: index for index, layer in enumerate(before.layers)}
    rows = []
    for item in (item for plan in plans for item in plan.replaced):
        if item.name in new_costs:  # else a later conversion rebuilt the stage that it was in
            rows.append(_replaced(item, costs.get(item.name, Cost()), new_costs[item.name]))
    converted = {row.name for row in rows}
    for kept in plans[-1].kept:
        if kept.name not in converted:
            cost = costs.get(kept.name, Cost())
            rows.append(LayerRow(kept.name, kept.kind, cost, cost, reason=kept.reason))
    times = plans[-1].times
    rows = [_timed(row, times) for row in rows]
    rows.sort(key=lambda row: order.get(row.name, len(order)))
    notes = (*_untraced(plans[-1]), *dict.fromkeys((*before.notes(), *_loss(after))))
    mode = "+".join(dict.fromkeys(plan.settings.mode for plan in plans))
    return Report(
        model=name,
        mode=mode,
        before=before.total,
        after=after.total,
        rows=tuple(rows),
        inputs=before.inputs,
        form=before.form,
        notes=notes,
        stages=tuple(_timed(row, times) for row in compare_stages(plans, before, after)),
        times=times,
        how=worst(before.how, after.how),
        missing=before.missing or after.missing,
    )


def describe(name: str, model: nn.Module, count: Count) -> Report:
    """Report the plain costs of a network that was not converted."""
    rows = tuple(
        LayerRow(
            layer.name, layer.kind, layer.cost, layer.cost, layer.shape, reason="not converted"
        )
        for layer in count.layers
    )
    return Report(
        model=name,
        mode="",
        before=count.total,
        after=count.total,
        rows=rows,
        inputs=count.inputs,
        form=count.form,
        notes=tuple(count.notes()),
        how=count.how,
        missing=count.missing,
    )


def _timed(row: RowT, times: MeasuredTimes | None) -> RowT:
    """A row with the times that were measured of it."""
    own = None if times is None else times.of(row.name)
    if own is None:
        return row
    return replace(row, time_before=own.before, time_after=own.after)


def _replaced(item: Replacement, before: Cost, after: Cost) -> LayerRow:
    return LayerRow(
        name=item.name,
        kind=item.kind,
        before=before,
        after=after,
        shape=f"{sizes(item.kernel_size)} {item.in_channels} > {item.out_channels}",
        s=item.s,
        d=item.d,
        eq4=item.speedup,
        eq5=compression_ratio(item.in_channels, item.kernel_size, item.s, item.d),
        approximation=approximate_ratio(item.in_channels, item.s),
    )


def _untraced(plan: Plan) -> Iterator[str]:
    if plan.untraced:
        first, *others = plan.untraced
        more = f" (and {len(others)} of its parts)" if others else ""
        yield f"tracing stopped in {first}{more}; the parts that trace were used"


def _loss(after: Count) -> Iterator[str]:
    """The parts of the converted network that could not be counted."""
    if after.stopped is not None:
        yield f"the converted network could not be run to its end: {after.stopped}"
    yield from after.notes_of_uncounted()
