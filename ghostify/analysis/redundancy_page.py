"""The page of an analysis: how redundant each layer is, what it recommends, pictures of maps."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ghostify.analysis.redundancy import BlockRedundancy, LayerRedundancy
from ghostify.documents.page import (
    Bar,
    Headline,
    Headlines,
    Lane,
    Lanes,
    Number,
    Page,
    Picture,
    Pictures,
    Profile,
    Section,
    Tone,
    page_of,
)

if TYPE_CHECKING:
    from ghostify.analysis.result import Analysis


def analysis_page(found: Analysis, pictures: Sequence[Picture] = ()) -> Page:
    """The page of an analysis."""
    plain = page_of(found.document())
    shown = [Pictures("Feature maps", pictures)] if pictures else []
    lead = f"{found.images} images of {found.inputs}."
    sections = [*_charts(found), *shown, *plain.sections]
    return replace(plain, title=found.model, kind="Redundancy of feature maps", lead=lead,
                   sections=sections)  # fmt: skip


def _charts(found: Analysis) -> Iterator[Section]:
    layers = [layer for layer in found.layers if layer.subsets]
    if layers:
        yield _headlines(layers)
        yield from (_profile(found, layers, index) for index in range(len(layers[0].subsets)))
    known = [blocks for blocks in found.blocks if blocks.r2]
    if known:
        yield Lanes(
            "Last blocks explained by first ones",
            [_lane(blocks) for blocks in known],
            "Mean, over the last block's channels, of the variance that a 1x1 convolution of the "
            "first block's maps explains.",
            least=1.0,
        )


def _headlines(layers: Sequence[LayerRedundancy]) -> Section:
    redundant = sum(layer.s > 1 for layer in layers)
    share = statistics.median(layer.subsets[0].r2 for layer in layers)
    s = layers[0].subsets[0].s
    return Headlines(
        [
            Headline("layers looked at", Number(str(len(layers)), len(layers))),
            Headline("can spare maps", Number(str(redundant), redundant), f"of {len(layers)}",
                     left=redundant / len(layers)),
            Headline(f"variance explained at s={s}", Number(f"{share:.0%}", share),
                     "median layer", left=max(share, 0.0)),
        ]
    )  # fmt: skip


def _profile(found: Analysis, layers: Sequence[LayerRedundancy], index: int) -> Section:
    s = layers[0].subsets[index].s
    bars = [
        Bar(layer.name, None, max(layer.subsets[index].r2, 0.0), _tone(found, layer, index),
            _hover(layer))
        for layer in layers
    ]  # fmt: skip
    return Profile(
        f"Each layer: explained variance at s={s}",
        bars,
        {"ghost": f"keeps {found.min_r2:g}", "left": "keeps less"},
        f"What {found.d}x{found.d} kernels on the best n/{s} maps explain of the other maps.",
        shown="{:.0%}".format,
        least=1.0,
        limit=found.min_r2,
        limit_label=f"{found.min_r2:.0%}",
    )


def _tone(found: Analysis, layer: LayerRedundancy, index: int) -> Tone:
    return "ghost" if layer.subsets[index].r2 >= found.min_r2 else "left"


def _hover(layer: LayerRedundancy) -> list[str]:
    shares = ", ".join(f"s={subset.s}: {subset.r2:.0%}" for subset in layer.subsets)
    advice = f"take s={layer.s}" if layer.s > 1 else "leave it"
    lines = [f"{layer.name}: {layer.channels} maps, {advice}", f"explained {shares}"]
    if layer.pairs:
        best = layer.pairs[0]
        lines.append(f"most alike: {best.source} and {best.target}, r = {best.correlation:+.2f}")
    return lines


def _lane(blocks: BlockRedundancy) -> Lane:
    assert blocks.r2 is not None
    mean = sum(blocks.r2) / len(blocks.r2)
    advice = "" if blocks.ratio is None else f"take lambda {blocks.ratio:g}"
    return Lane(f"{blocks.first}, {blocks.last}", Number(f"{mean:.0%}", mean), advice, "stage")
