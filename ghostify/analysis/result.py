"""The result of an analysis: its figures, what they recommend, and the document they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ghostify.analysis.redundancy import BlockRedundancy, LayerRedundancy
from ghostify.analysis.redundancy_page import analysis_page
from ghostify.analysis.tables import block_table, pair_table, redundancy_table
from ghostify.documents import Document, Writable
from ghostify.documents.html_page import render_page
from ghostify.documents.page import Page, Picture
from ghostify.errors import SettingsError
from ghostify.settings import CGhost, GGhost

SCHEMA = "ghostify.analysis/1"
"""Name and version of the JSON form; the number goes up when a key changes its meaning or goes."""


@dataclass(frozen=True)
class Analysis(Writable):
    """The redundancy of a network's feature maps.

    Attributes:
        model: Name of the network.
        images: Number of images seen.
        inputs: Size of one, ``CxHxW``.
        d: Kernel size that the recommendation goes by.
        min_r2: Mean explained share of variance that a recommended s keeps.
        layers: In network order.
        blocks: First against last blocks.
        notes: What a reader must know.
    """

    model: str
    images: int
    inputs: str
    d: int
    min_r2: float
    layers: tuple[LayerRedundancy, ...]
    blocks: tuple[BlockRedundancy, ...] = ()
    notes: tuple[str, ...] = ()

    def layer(self, name: str) -> LayerRedundancy:
        """The redundancy of one layer."""
        return next(layer for layer in self.layers if layer.name == name)

    def settings(self) -> CGhost:
        """The recommendation as settings for `ghostify.convert`: s of each layer, others kept.

        Raises:
            SettingsError: No layer is redundant enough.
        """
        convs = [layer for layer in self.layers if "Conv" in layer.kind]
        numbers = {layer.name: layer.s for layer in convs if layer.s > 1}
        if not numbers:
            raise SettingsError(
                f"No layer of {self.model} keeps {self.min_r2:g} of the variance at any s: "
                "lower min_r2, or choose s yourself."
            )
        return CGhost(s=numbers, d=self.d, only=tuple(numbers))

    def stage_settings(self, **changes: Any) -> GGhost:
        """The recommended lambda of each stage, for `ghostify.convert`; other stages are left.

        Args:
            **changes: Other settings of `GGhost`.

        Raises:
            SettingsError: No stage's last block follows from its first.
        """
        ratios = {blocks.stage: blocks.ratio for blocks in self.blocks if blocks.stage}
        known = {stage: ratio for stage, ratio in ratios.items() if ratio}
        if not known:
            raise SettingsError(
                f"No stage of {self.model} has a recommended lambda above 0: give more images, "
                "lower min_r2, or choose the ratio yourself."
            )
        return GGhost(ratio=known, only=tuple(known), **changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `Analysis.from_dict` turns back into an equal analysis."""
        return {"schema": SCHEMA, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Analysis:
        """An analysis from what `to_dict` gave, or its JSON."""
        values = {key: value for key, value in data.items() if key != "schema"}
        values["layers"] = tuple(LayerRedundancy.from_dict(row) for row in data["layers"])
        values["blocks"] = tuple(BlockRedundancy.from_dict(row) for row in data["blocks"])
        values["notes"] = tuple(data["notes"])
        return cls(**values)

    def document(self) -> Document:
        """Tables of layers, of pairs and of blocks."""
        tables = [
            redundancy_table(f"Redundancy of {self.model}", self.layers),
            pair_table(self.layers),
            block_table(self.blocks),
        ]
        return Document(tables=tables, footnotes=self._footnotes(), width=100)

    def page(self, pictures: Sequence[Picture] = ()) -> Page:
        """How redundant each layer is, what that recommends, and pictures of maps."""
        return analysis_page(self, pictures)

    def to_html(self, pictures: Sequence[Picture] = ()) -> str:
        """That page as one file of HTML.

        Args:
            pictures: What `draw_for_page` drew.
        """
        return render_page(self.page(pictures))

    def _footnotes(self) -> list[str]:
        """How the figures are to be read."""
        lines = [f"{self.images} images of {self.inputs}"]
        if self.layers:
            d = self.d
            lines += [
                "n: feature maps; most alike: two of them, and their correlation",
                f"s=2, ...: share of the variance of the other channels that a {d}x{d} depth-wise "
                "kernel on one of the best n/s explains (and share of channels of which it "
                "explains half)",
                f"take s: the largest that keeps {self.min_r2:g}; 1 is to leave the layer",
            ]
        if self.blocks:
            lines.append(
                "explained: mean over the last block's channels; take lambda: share of them of "
                f"which a 1x1 convolution of the first block's explains {self.min_r2:g}, rounded "
                "down to tenths, at most 0.7"
            )
        return [*lines, *self.notes]
