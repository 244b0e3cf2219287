"""The redundancy of layers and of pairs of blocks, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Pair:
        """A pair from its plain data."""
        return cls(**{**data, "fits": tuple(KernelFit(**fit) for fit in data["fits"])})

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
    """The redundancy of one layer.

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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LayerRedundancy:
        """A layer from its plain data."""
        pairs = tuple(map(Pair.from_dict, data["pairs"]))
        subsets = ({**row, "intrinsic": tuple(row["intrinsic"])} for row in data["subsets"])
        parts = {"pairs": pairs, "subsets": tuple(Subset(**row) for row in subsets)}
        plain = {name: tuple(data[name]) for name in ("size", "constant")}
        return cls(**{**data, **plain, **parts})

    def subset(self, s: int) -> Subset:
        """The subset of one s."""
        return next(subset for subset in self.subsets if subset.s == s)


@dataclass(frozen=True)
class BlockRedundancy:
    """The redundancy of a stage's last block beside its first (Figure 4).

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

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> BlockRedundancy:
        """Two blocks from their plain data."""
        pairs = tuple(map(Pair.from_dict, data["pairs"]))
        r2 = None if data["r2"] is None else tuple(data["r2"])
        return cls(**{**data, "pairs": pairs, "r2": r2})
