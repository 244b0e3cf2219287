"""The tables of an analysis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ghostify.analysis.redundancy import BlockRedundancy, LayerRedundancy, Pair
from ghostify.documents import Table, plain_columns
from ghostify.numerics.ranking import ranked

ALIKE = "most alike"


def redundancy_table(title: str, layers: Sequence[LayerRedundancy]) -> Table:
    """How redundant each layer is, and the s to take."""
    tried = [subset.s for subset in layers[0].subsets] if layers else []
    header = ["layer", "n", ALIKE, *(f"s={s}" for s in tried), "take s"]
    return _table(title, header, [_layer_cells(layer) for layer in layers])


def pair_table(layers: Sequence[LayerRedundancy]) -> Table:
    """The most alike channels, and how well one is made into the other (Table 3)."""
    pairs = most_alike(layers)
    sizes = [fit.d for fit in pairs[0][1].fits] if pairs else []
    header = ["pair", "r", *(f"MSE d={d}" for d in sizes), "explained"]
    rows = [
        [
            f"{layer.name}: {pair.source}, {pair.target}",
            f"{pair.correlation:+.3f}",
            *(f"{fit.mse:.3g}" for fit in pair.fits),
            f"{pair.fits[-1].r2:.0%}",
        ]
        for layer, pair in (pairs if sizes else ())
    ]
    return _table("The most alike pairs, one turned into the other (Table 3)", header, rows)


def block_table(blocks: Sequence[BlockRedundancy]) -> Table:
    """How well the last block of each stage follows from the first, and the lambda to take."""
    header = ["first and last block", ALIKE, "explained", "take lambda"]
    return _table("First against last block", header, [_block_cells(row) for row in blocks])


def most_alike(
    layers: Sequence[LayerRedundancy], count: int = 5
) -> list[tuple[LayerRedundancy, Pair]]:
    """The most alike pairs of all layers, one of each layer, with their layers."""
    best = [(layer, layer.pairs[0]) for layer in layers if layer.pairs]
    return ranked(best, lambda both: abs(both[1].correlation))[:count]


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    columns = [replace(column, wraps=column.title == ALIKE) for column in plain_columns(*header)]
    return Table(columns, rows, title)


def _layer_cells(layer: LayerRedundancy) -> list[str]:
    shares = (f"{subset.r2:.2f} ({subset.explained:.0%})" for subset in layer.subsets)
    return [layer.name, str(layer.channels), _alike(layer.pairs), *shares, str(layer.s)]


def _block_cells(blocks: BlockRedundancy) -> list[str]:
    mean = "?" if blocks.r2 is None else f"{sum(blocks.r2) / len(blocks.r2):.2f}"
    ratio = "?" if blocks.ratio is None else f"{blocks.ratio:g}"
    stage = f"{blocks.stage}: " if blocks.stage else ""
    return [f"{stage}{blocks.first}, {blocks.last}", _alike(blocks.pairs), mean, ratio]


def _alike(pairs: Sequence[Pair]) -> str:
    """The first pair and its correlation."""
    if not pairs:
        return "-"
    return f"{pairs[0].source}, {pairs[0].target} {pairs[0].correlation:+.2f}"
