"""The report of a conversion: its plan beside what was counted before and after."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from ghostify.cost.figures import Cost, Count, LayerCount, worst
from ghostify.cost.theory import approximate_ratio, compression_ratio, speedup_ratio
from ghostify.plans import Plan, Replacement
from ghostify.reports.compare_stages import compare_stages
from ghostify.reports.conversion import Report, Row
from ghostify.reports.tables import amount


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
    notes = (*_untraced(plans[-1]), *dict.fromkeys((*_notes(before), *_loss(after))))
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
        how=worst(before.how, after.how),
        missing=before.missing or after.missing,
    )


def describe(name: str, model: nn.Module, count: Count) -> Report:
    """The plain costs of a network that was not converted."""
    rows = tuple(
        Row(layer.name, layer.kind, layer.cost, layer.cost, _shape(layer), reason="not converted")
        for layer in count.layers
    )
    return Report(
        model=name,
        mode="",
        before=count.total,
        after=count.total,
        rows=rows,
        inputs=count.inputs,
        notes=tuple(_notes(count)),
        how=count.how,
        missing=count.missing,
    )


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
    yield from how_counted(count)
    idle = sum(1 for layer in count.layers if not layer.calls and layer.cost.params)
    if idle and count.stopped is None:
        yield (
            f"{idle} modules with parameters are not called in eval mode: "
            "they add no MACs of their own"
        )
    yield from _uncounted(count)


def how_counted(count: Count) -> Iterator[str]:
    """What a reader must know of how a network was counted; nothing where shapes alone did."""
    if count.stopped is not None:
        known = sum(layer.cost.macs or 0 for layer in count.layers)
        yield (
            f"MACs unknown, and activations: the network could not be run to its end on "
            f"{count.inputs}: {count.stopped}"
        )
        if known:
            yield f"partial: the layers up to there have {amount(known)} MACs"
    elif count.shapes_end is not None:
        yield (
            f"counted in one run for real, on {count.ran_on}, since the forward reads its data "
            f"({count.shapes_end}): MACs and activations are those of the way that it took"
        )


def _loss(after: Count) -> Iterator[str]:
    """What the converted network's count lacks."""
    if after.stopped is not None:
        yield f"the converted network could not be run to its end: {after.stopped}"
    yield from _uncounted(after)


def _uncounted(count: Count) -> Iterator[str]:
    for op, times in count.uncounted.items():
        yield f"partial: {op} ran {times} times, and its MACs are not known and not counted"
