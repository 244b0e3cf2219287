"""How an analysis looks: in a terminal and as Markdown."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ghostify.analysis.result import Analysis, BlockRedundancy, LayerRedundancy, Pair
from ghostify.numerics.ranking import ranked
from ghostify.reports.tables import NAME_WIDTH, markdown_table

Rows = list[list[str]]
ALIKE = "most alike"


def to_rich(analysis: Analysis) -> Group:
    """The analysis as something `rich` prints."""
    parts: list[Text | Table] = []
    for title, header, rows in _tables(analysis):
        table = Table(box=None, pad_edge=False, title=title, title_justify="left")
        longest = max(len(row[0]) for row in rows)
        table.add_column(header[0], overflow="fold", min_width=min(longest, NAME_WIDTH))
        for name in header[1:]:
            table.add_column(name, justify="right", overflow="fold", no_wrap=name != ALIKE)
        for row in rows:
            table.add_row(*map(Text, row))
        parts += [table, Text()]
    parts += [Text(line, style="dim") for line in footnotes(analysis)]
    return Group(*parts)


def to_text(analysis: Analysis, width: int = 100) -> str:
    """The analysis as plain text."""
    stream = io.StringIO()
    Console(file=stream, width=width, color_system=None).print(to_rich(analysis))
    return stream.getvalue()


def to_markdown(analysis: Analysis) -> str:
    """The analysis as Markdown."""
    lines = []
    for title, header, rows in _tables(analysis):
        lines += [f"**{title}**", "", *markdown_table(header, rows), ""]
    lines += [f"- {line}" for line in footnotes(analysis)]
    return "\n".join(lines) + "\n"


def footnotes(analysis: Analysis) -> list[str]:
    """How the figures are to be read."""
    lines = [f"{analysis.images} images of {analysis.inputs}"]
    if analysis.layers:
        d = analysis.d
        lines += [
            "n: feature maps; most alike: two of them, and their correlation",
            f"s=2, ...: share of the variance of the other channels that a {d}x{d} depth-wise "
            f"kernel on one of the best n/s explains (and share of channels of which it explains "
            "half)",
            f"take s: the largest that keeps {analysis.min_r2:g}; 1 is to leave the layer",
        ]
    if analysis.blocks:
        lines.append(
            "explained: mean over the last block's channels; take lambda: share of them of which a "
            f"1x1 convolution of the first block's explains {analysis.min_r2:g}, rounded down to "
            "tenths, at most 0.7"
        )
    return [*lines, *analysis.notes]


def _tables(analysis: Analysis) -> list[tuple[str, list[str], Rows]]:
    tables = []
    if analysis.layers:
        tried = [subset.s for subset in analysis.layers[0].subsets]
        header = ["layer", "n", ALIKE, *(f"s={s}" for s in tried), "take s"]
        rows = [_layer_row(layer) for layer in analysis.layers]
        tables.append((f"Redundancy of {analysis.model}", header, rows))
        pairs = most_alike(analysis.layers)
        sizes = [fit.d for fit in pairs[0][1].fits] if pairs else []
        if sizes:
            header = ["pair", "r", *(f"MSE d={d}" for d in sizes), "explained"]
            rows = [
                [
                    f"{layer.name}: {pair.source}, {pair.target}",
                    f"{pair.correlation:+.3f}",
                    *(f"{fit.mse:.3g}" for fit in pair.fits),
                    f"{pair.fits[-1].r2:.0%}",
                ]
                for layer, pair in pairs
            ]
            tables.append(
                ("The most alike pairs, one turned into the other (Table 3)", header, rows)
            )
    if analysis.blocks:
        header = ["first and last block", ALIKE, "explained", "take lambda"]
        tables.append(
            ("First against last block", header, [_block_row(b) for b in analysis.blocks])
        )
    return tables


def most_alike(
    layers: Sequence[LayerRedundancy], count: int = 5
) -> list[tuple[LayerRedundancy, Pair]]:
    """The most alike pairs of all layers, one of each layer, with their layers."""
    best = [(layer, layer.pairs[0]) for layer in layers if layer.pairs]
    return ranked(best, lambda both: abs(both[1].correlation))[:count]


def _layer_row(layer: LayerRedundancy) -> list[str]:
    alike = "-"
    if layer.pairs:
        pair = layer.pairs[0]
        alike = f"{pair.source}, {pair.target} {pair.correlation:+.2f}"
    shares = (f"{subset.r2:.2f} ({subset.explained:.0%})" for subset in layer.subsets)
    return [layer.name, str(layer.channels), alike, *shares, str(layer.s)]


def _block_row(blocks: BlockRedundancy) -> list[str]:
    alike = "-"
    if blocks.pairs:
        pair = blocks.pairs[0]
        alike = f"{pair.source}, {pair.target} {pair.correlation:+.2f}"
    mean = "?" if blocks.r2 is None else f"{sum(blocks.r2) / len(blocks.r2):.2f}"
    ratio = "?" if blocks.ratio is None else f"{blocks.ratio:g}"
    stage = f"{blocks.stage}: " if blocks.stage else ""
    return [f"{stage}{blocks.first}, {blocks.last}", alike, mean, ratio]
