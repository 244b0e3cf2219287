"""What an analysis found, as data: per layer, per pair of blocks, and what it recommends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ghostify.errors import SettingsError
from ghostify.settings import CGhost, GGhost

SCHEMA = "ghostify.analysis/1"
"""Name and version of the JSON form; the number goes up when a key changes its meaning or goes."""


@dataclass(frozen=True)
class KernelFit:
    """The best d x d depth-wise kernel, with a bias, from one map to another (Table 3).

    Attributes:
        d: Kernel size.
        mse: Mean squared error, in the maps' own units.
        r2: Share of the target's variance that is explained, adjusted for the number of weights;
            1 where it does not vary.
    """

    d: int
    mse: float
    r2: float


@dataclass(frozen=True)
class Pair:
    """Two channels that are alike (Figure 1).

    Attributes:
        source: Channel that the other is made from.
        target: The other channel.
        correlation: Over all images and positions.
        fits: Kernels of each size.
    """

    source: int
    target: int
    correlation: float
    fits: tuple[KernelFit, ...] = ()

    def fit(self, d: int) -> KernelFit:
        """The fit of kernel size d."""
        return next(fit for fit in self.fits if fit.d == d)


@dataclass(frozen=True)
class Subset:
    """How well ceil(n / s) channels of a layer stand for all n (Eq. 2-3).

    Attributes:
        s: The paper's s.
        intrinsic: The channels that the others are made from.
        r2: Mean, over the other channels, of the share of variance that the best d x d kernel on
            one intrinsic map explains.
        explained: Share of the other channels of which at least half of the variance is.
    """

    s: int
    intrinsic: tuple[int, ...]
    r2: float
    explained: float


@dataclass(frozen=True)
class LayerRedundancy:
    """What was seen in one layer.

    Attributes:
        name: Qualified name.
        kind: Name of its class.
        channels: Number of its feature maps.
        size: Height and width of one.
        constant: Channels that do not vary (dead ones).
        pairs: The most alike channels, no channel twice.
        subsets: For each s.
        s: The recommended s; 1 is to leave the layer.
    """

    name: str
    kind: str
    channels: int
    size: tuple[int, int]
    constant: tuple[int, ...]
    pairs: tuple[Pair, ...]
    subsets: tuple[Subset, ...]
    s: int

    def subset(self, s: int) -> Subset:
        """What holds for one s."""
        return next(subset for subset in self.subsets if subset.s == s)


@dataclass(frozen=True)
class BlockRedundancy:
    """What the last block of a stage adds to the first (Figure 4).

    Attributes:
        first: Name of the first block.
        last: Name of the last.
        pairs: Channels of the first and of the last block that are most alike.
        r2: For each channel of the last block, the share of variance that a 1 x 1 convolution of
            the first block's maps explains, adjusted for its number of weights; None where too few
            positions were seen.
        ratio: The recommended ratio lambda of ghost channels; None likewise.
        stage: Name of the stage that they are the first and last block of, where it was found.
    """

    first: str
    last: str
    pairs: tuple[Pair, ...]
    r2: tuple[float, ...] | None
    ratio: float | None
    stage: str = ""


@dataclass(frozen=True)
class Analysis:
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
        """What was seen in a layer."""
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

    def to_json(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Analysis:
        """An analysis from what `to_dict` gave, or its JSON."""
        values = {key: value for key, value in data.items() if key != "schema"}
        values["layers"] = tuple(_layer(row) for row in data["layers"])
        values["blocks"] = tuple(_blocks(row) for row in data["blocks"])
        values["notes"] = tuple(data["notes"])
        return cls(**values)

    def to_markdown(self) -> str:
        """The analysis as Markdown tables."""
        from ghostify.analysis.render import to_markdown

        return to_markdown(self)

    def __rich__(self) -> Any:
        """The analysis in a terminal: ``rich.print(analysis)``."""
        from ghostify.analysis.render import to_rich

        return to_rich(self)

    def __str__(self) -> str:
        from ghostify.analysis.render import to_text

        return to_text(self)


def _pairs(rows: Any) -> tuple[Pair, ...]:
    return tuple(
        Pair(**{**row, "fits": tuple(KernelFit(**f) for f in row["fits"])}) for row in rows
    )


def _layer(row: Mapping[str, Any]) -> LayerRedundancy:
    subsets = tuple(Subset(**{**s, "intrinsic": tuple(s["intrinsic"])}) for s in row["subsets"])
    plain = {"size": tuple(row["size"]), "constant": tuple(row["constant"])}
    return LayerRedundancy(**{**row, **plain, "pairs": _pairs(row["pairs"]), "subsets": subsets})


def _blocks(row: Mapping[str, Any]) -> BlockRedundancy:
    r2 = None if row["r2"] is None else tuple(row["r2"])
    return BlockRedundancy(**{**row, "pairs": _pairs(row["pairs"]), "r2": r2})
