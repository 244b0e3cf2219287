"""Looking at a network's feature maps while real images go through it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ghostify.analysis.images import ImageFiles, as_batches
from ghostify.analysis.redundancy import BlockRedundancy, KernelFit, LayerRedundancy, Pair, Subset
from ghostify.analysis.result import Analysis
from ghostify.analysis.select import alike_pairs, intrinsic_order, sources_of
from ghostify.analysis.sums import CrossMoments, KernelFits, Moments
from ghostify.analysis.watch import Watched, first_tensors
from ghostify.errors import GhostifyError, ModelError, SettingsError
from ghostify.nn.ghost import check_s_d, intrinsic_channels
from ghostify.numerics.ranking import NOISE, exceeds
from ghostify.numerics.surroundings import own_surroundings
from ghostify.passes.survey import survey
from ghostify.reports.stage_table import tabulate_stages
from ghostify.saving import network_of
from ghostify.saving.history import name_of
from ghostify.settings import GGhost

EXPLAINED = 0.5
"""Share of its variance from which a channel counts as explained."""

RATIOS = tuple(step / 10 for step in range(8))
"""Ratios lambda that may be recommended: up to the largest of Figure 11."""

ENOUGH = 10
"""Positions for each channel below which correlations can't be relied on."""

Images = Tensor | Iterable[Tensor] | str | Path | Sequence[str] | Sequence[Path]


@dataclass(frozen=True)
class Options:
    """What to look for.

    Attributes:
        s: The values of s to try.
        d: Kernel sizes to fit.
        pairs: Alike pairs to name in each layer.
        min_r2: Mean explained share of variance that a recommended s must keep.
        judge: Kernel size that the recommendation goes by.
    """

    s: tuple[int, ...] = (2, 3, 4)
    d: tuple[int, ...] = (1, 3, 5, 7)
    pairs: int = 3
    min_r2: float = EXPLAINED
    judge: int = 3

    def __post_init__(self) -> None:
        for s in self.s:
            check_s_d(s, 1)
        for d in self.d:
            check_s_d(2, d)
        if not self.s or min(self.s) < 2 or not self.d:
            raise SettingsError("s or d is empty, or has s=1: give s of 2 or more, and odd d.")
        if self.judge not in self.d:
            object.__setattr__(self, "judge", max(self.d))
        if not 0 < self.min_r2 <= 1:
            raise SettingsError(f"min_r2={self.min_r2!r} makes no sense: give 0 < min_r2 <= 1.")


@own_surroundings()
def analyze(
    model: nn.Module | str,
    images: Images,
    *,
    layers: Sequence[str] | str = (),
    compare: Sequence[tuple[str, str]] | Literal["stages"] = (),
    input_size: Sequence[int] | None = None,
    s: Sequence[int] = (2, 3, 4),
    d: Sequence[int] = (1, 3, 5, 7),
    pairs: int = 3,
    min_r2: float = EXPLAINED,
) -> Analysis:
    """Find out how redundant a network's feature maps are (Figures 1 and 4, Table 3).

    The images go through a copy of the network, in eval mode, twice; only sums are kept.

    Args:
        model: A network, or the name of one.
        images: ``(N, C, H, W)``, batches of it, or image files.
        layers: Names or glob patterns of modules whose output is looked at; all convolutions (but
            depth-wise ones) and ghost modules where none is given.
        compare: First and last block of a stage, for each stage to look at; ``"stages"`` for all
            stages that G-Ghost would rebuild (see `ghostify.find_stages`).
        input_size: ``(C, H, W)`` that image files are brought to; else the network's own.
        s: The values of s to try.
        d: Kernel sizes to fit, odd.
        pairs: Alike pairs to name in each layer.
        min_r2: Mean share of variance that a recommended s must keep.

    Raises:
        SettingsError: A name matches nothing, or a value makes no sense.
        ModelError: The network can't take the images.
        GhostifyError: An image can't be read.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        >>> found = analyze(net, torch.rand(4, 3, 16, 16, generator=torch.manual_seed(0)))
        >>> found.layers[0].name, found.layers[0].channels, [k.s for k in found.layers[0].subsets]
        ('0', 8, [2, 3, 4])
    """
    network = network_of(model)
    options = Options(tuple(s), tuple(d), pairs, min_r2)
    batches = as_batches(images, network, input_size)
    watched = Watched(network)
    chosen = watched.choose([layers] if isinstance(layers, str) else layers)
    stages = find_blocks(network, input_size) if compare == "stages" else {}
    asked = list(stages) if isinstance(compare, str) else list(compare)
    blocks = [watched.pair(first, last) for first, last in asked]
    moments, crossed, seen = _first_pass(watched, batches, chosen, blocks)
    if seen.images == 0:
        raise GhostifyError("There is no image: give at least one.")
    kept = _kept(moments, named=bool(layers))
    plans = {name: _Candidates(moments[name].correlation, options) for name in kept}
    fits = _second_pass(watched, batches, plans, options)
    return Analysis(
        model=name_of(network),
        images=seen.images,
        inputs=seen.inputs,
        d=options.judge,
        min_r2=min_r2,
        layers=tuple(
            _layer(watched, name, moments[name], plans[name], fits[name], options, seen)
            for name in kept
        ),
        blocks=tuple(
            _blocks(pair, crossed[pair], options, stages.get(pair, "")) for pair in blocks
        ),
        notes=_notes(batches, seen, {name: moments[name] for name in kept}, crossed),
    )


@dataclass
class _Seen:
    images: int = 0
    inputs: str = ""
    sizes: dict[str, tuple[int, int]] | None = None


class _Candidates:
    """The pairs of a layer that are worth a fit."""

    def __init__(self, correlation: Tensor, options: Options) -> None:
        channels = len(correlation)
        self.correlation = correlation
        self.alike = alike_pairs(correlation, options.pairs)
        order = intrinsic_order(correlation, intrinsic_channels(channels, min(options.s)))
        self.intrinsic = {s: sorted(order[: intrinsic_channels(channels, s)]) for s in options.s}
        self.sources = {s: sources_of(correlation, chosen) for s, chosen in self.intrinsic.items()}
        wanted = [both for a, b in self.alike for both in ((a, b), (b, a))]
        for sources in self.sources.values():
            wanted += [(source, target) for target, source in sources.items()]
        self.index = {pair: i for i, pair in enumerate(dict.fromkeys(wanted))}


def _first_pass(
    watched: Watched,
    batches: Iterable[Tensor],
    layers: Sequence[str],
    blocks: Sequence[tuple[str, str]],
) -> tuple[dict[str, Moments], dict[tuple[str, str], CrossMoments], _Seen]:
    """Correlations of each layer, and between the blocks."""
    moments: dict[str, Moments] = {}
    crossed: dict[tuple[str, str], CrossMoments] = {}
    sizes: dict[str, tuple[int, int]] = {}
    held: dict[str, Tensor] = {}
    ends = {name for pair in blocks for name in pair}

    def watch(name: str, maps: Tensor) -> None:
        if name in wanted:
            moments.setdefault(name, Moments(maps.shape[1])).add(maps)
            sizes[name] = (maps.shape[2], maps.shape[3])
        if name in ends:
            held[name] = maps.clone()

    wanted, seen = set(layers), _Seen(sizes=sizes)
    for batch in first_tensors(batches):
        watched.run(batch, dict.fromkeys([*layers, *ends], watch))
        seen.images += len(batch)
        seen.inputs = "x".join(map(str, batch.shape[1:]))
        for pair in blocks:
            first, last = (_held(held, name) for name in pair)
            _check_sizes(pair, first, last)
            crossed.setdefault(pair, CrossMoments(first.shape[1], last.shape[1])).add(first, last)
        held.clear()
    return moments, crossed, seen


def _second_pass(
    watched: Watched, batches: Iterable[Tensor], plans: dict[str, _Candidates], options: Options
) -> dict[str, KernelFits]:
    """The kernels of the pairs that the first pass found."""
    fits = {name: KernelFits(list(plan.index), options.d) for name, plan in plans.items()}
    for batch in first_tensors(batches):
        watched.run(batch, dict.fromkeys(fits, lambda name, maps: fits[name].add(maps)))
    return fits


def _layer(
    watched: Watched,
    name: str,
    moments: Moments,
    plan: _Candidates,
    fits: KernelFits,
    options: Options,
    seen: _Seen,
) -> LayerRedundancy:
    errors, variances = fits.errors(), fits.variances()
    shares = _adjusted(1 - errors / variances.clamp_min(1e-300).unsqueeze(1), fits)
    constant = (moments.variance == 0).nonzero().flatten().tolist()
    shares[torch.isin(torch.tensor([t for _, t in plan.index]), torch.tensor(constant))] = 1
    shares = shares.clamp(0, 1)

    judged = shares[:, options.d.index(options.judge)]

    def pair(a: int, b: int) -> Pair:
        # A blurred map is easily made from a sharp one, and not the other way round.
        forth, back = (float(judged[plan.index[both]]) for both in ((a, b), (b, a)))
        source, target = (b, a) if exceeds(back, forth) else (a, b)
        row = plan.index[source, target]
        sizes = enumerate(options.d)
        found = (KernelFit(d, float(errors[row, i]), float(shares[row, i])) for i, d in sizes)
        return Pair(source, target, float(plan.correlation[source, target]), tuple(found))

    subsets = tuple(_subset(s, plan, judged) for s in options.s)
    good = [subset.s for subset in subsets if not exceeds(options.min_r2, subset.r2)]
    assert seen.sizes is not None
    return LayerRedundancy(
        name=name,
        kind=type(watched.modules[name]).__name__,
        channels=len(plan.correlation),
        size=seen.sizes[name],
        constant=tuple(constant),
        pairs=tuple(pair(*both) for both in plan.alike),
        subsets=subsets,
        s=max(good, default=1),
    )


def _adjusted(shares: Tensor, fits: KernelFits) -> Tensor:
    """Shares of variance made less by what so many weights explain of noise; 0 if unknowable."""
    weights = torch.tensor([d * d for d in fits.d], dtype=torch.float64)
    left = fits.count - weights - 1
    adjusted = 1 - (1 - shares) * (fits.count - 1) / left.clamp_min(1)
    return torch.where(left > 0, adjusted, 0.0)


def _subset(s: int, plan: _Candidates, shares: Tensor) -> Subset:
    rows = [plan.index[source, target] for target, source in plan.sources[s].items()]
    others = shares[rows]
    mean = float(others.mean()) if rows else 1.0
    explained = float((others >= EXPLAINED * (1 - NOISE)).double().mean()) if rows else 1.0
    return Subset(s, tuple(plan.intrinsic[s]), mean, explained)


def find_blocks(
    model: nn.Module, input_size: Sequence[int] | None = None
) -> dict[tuple[str, str], str]:
    """First and last block of each stage that G-Ghost would rebuild, and the stage's name."""
    found = survey(model, None, input_size)
    table = tabulate_stages(name_of(model), found, GGhost())
    # A block that calls several modules puts out what the last of them does.
    runs = [s for s in table.stages if len(s.blocks) > 1]
    return {(s.blocks[0][-1], s.blocks[-1][-1]): s.name for s in runs}


def _blocks(
    pair: tuple[str, str], crossed: CrossMoments, options: Options, stage: str
) -> BlockRedundancy:
    correlation = crossed.correlation
    _require_finite(f"{pair[0]!r} or {pair[1]!r}", correlation)
    alike = alike_pairs(correlation, options.pairs)
    pairs = tuple(Pair(a, b, float(correlation[a, b])) for a, b in alike)
    r2 = crossed.r2()
    if r2 is None:
        return BlockRedundancy(*pair, pairs, None, None, stage)
    share = float((r2 >= options.min_r2 * (1 - NOISE)).double().mean())
    ratio = max(value for value in RATIOS if value <= share + 1e-9)
    return BlockRedundancy(*pair, pairs, tuple(r2.tolist()), ratio, stage)


def _kept(moments: dict[str, Moments], named: bool) -> list[str]:
    """The layers that put out maps to compare; an error where a caller named none that does."""
    kept = [name for name, found in moments.items() if len(found.correlation) > 1]
    if not kept and named:
        raise SettingsError(
            "None of the layers puts out feature maps (N, C, H, W) with C > 1: name convolutions, "
            "blocks or stages."
        )
    for name in kept:
        _require_finite(repr(name), moments[name].covariance)
    return kept


def _require_finite(name: str, covariance: Tensor) -> None:
    if not math.isfinite(float(covariance.sum())):
        raise ModelError(
            f"{name} puts out values that are not finite: train the network, or check the "
            "weights and the images."
        )


def _notes(
    batches: Iterable[Tensor],
    seen: _Seen,
    moments: dict[str, Moments],
    crossed: dict[tuple[str, str], CrossMoments],
) -> tuple[str, ...]:
    notes = list(batches.preparation.notes) if isinstance(batches, ImageFiles) else []
    few = [name for name, found in moments.items() if found.count < ENOUGH * len(found.variance)]
    if few:
        notes.append(
            f"{len(few)} layers ({few[0]}{', ...' if len(few) > 1 else ''}) have fewer than "
            f"{ENOUGH} positions for each channel in these images, so that channels look more "
            "alike than they are: give more images"
        )
    for (first, last), found in crossed.items():
        if found.r2() is None:
            notes.append(
                f"{seen.images} images are too few to tell lambda of {first} and {last}: "
                f"{found.count} positions; give more images"
            )
    return tuple(notes)


def _held(held: dict[str, Tensor], name: str) -> Tensor:
    if name not in held:
        raise SettingsError(f"compare names {name!r}, which puts out no feature maps (N, C, H, W).")
    return held[name]


def _check_sizes(pair: tuple[str, str], first: Tensor, last: Tensor) -> None:
    if first.shape[2:] != last.shape[2:]:
        raise SettingsError(
            f"{pair[0]} puts out maps of {tuple(first.shape[2:])} and {pair[1]} of "
            f"{tuple(last.shape[2:])}: compare blocks of one stage."
        )
