"""The report of a conversion: its plan beside what was counted before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from ghostify.compare_stages import compare_stages
from ghostify.cost.figures import Cost, Count, LayerCount
from ghostify.cost.report import Report, Row
from ghostify.cost.theory import approximate_ratio, compression_ratio, speedup_ratio
from ghostify.plans import Plan, Replacement


def compare(name: str, plans: Sequence[Plan], before: Count, after: Count) -> Report:
    """What conversions did to a network.

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
            rows.append(Row(kept.name, kept.kind, cost, cost, reason=kept.reason))
    rows.sort(key=lambda row: order.get(row.name, len(order)))
    notes = (*_untraced(plans[-1]), *_notes(before))
    mode = "+".join(dict.fromkeys(plan.settings.mode for plan in plans))
    return Report(
        model=name,
        mode=mode,
        before=before.total,
        after=after.total,
        rows=tuple(rows),
        inputs=before.inputs,
        notes=notes,
        stages=compare_stages(plans, before, after),
    )


def describe(name: str, model: nn.Module, count: Count) -> Report:
    """The plain costs of a network that was not converted."""
    rows = tuple(
        Row(layer.name, layer.kind, layer.cost, layer.cost, _shape(layer), reason="not converted")
        for layer in count.layers
    )
    notes = tuple(_notes(count))
    return Report(name, "", count.total, count.total, rows, count.inputs, notes)


def _replaced(item: Replacement, before: Cost, after: Cost) -> Row:
    kernel = "x".join(map(str, item.kernel_size))
    return Row(
        name=item.name,
        kind=item.kind,
        before=before,
        after=after,
        shape=f"{kernel} {item.in_channels} > {item.out_channels}",
        s=item.s,
        d=item.d,
        eq4=speedup_ratio(item.in_channels, item.kernel_size, item.s, item.d),
        eq5=compression_ratio(item.in_channels, item.kernel_size, item.s, item.d),
        approximation=approximate_ratio(item.in_channels, item.s),
    )


def _shape(layer: LayerCount) -> str:
    return "x".join(map(str, layer.output_shape)) if layer.output_shape else ""


def _untraced(plan: Plan) -> Iterator[str]:
    if plan.untraced:
        first, *others = plan.untraced
        more = f" (and {len(others)} of its parts)" if others else ""
        yield f"tracing stopped in {first}{more}; the parts that trace were used"


def _notes(count: Count) -> Iterator[str]:
    if count.assumed and count.stopped is None:
        yield "that input was assumed: give input_size or example_inputs for another"
    if count.stopped is not None and count.total.macs is None:
        yield f"MACs unknown, the network could not be run on {count.inputs}: {count.stopped}"
    elif count.stopped is not None:
        yield f"MACs are those of the layers up to where the counting pass stopped: {count.stopped}"
    idle = sum(1 for layer in count.layers if not layer.calls and layer.cost.params)
    if idle and count.stopped is None:
        yield (
            f"{idle} modules with parameters are not called in eval mode: "
            "they add no MACs of their own"
        )
    for op, times in count.uncounted.items():
        yield f"{op} ran {times} times: its MACs are not known and not counted"
