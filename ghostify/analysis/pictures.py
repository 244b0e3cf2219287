"""The set of pictures that goes with an analysis, as files in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ghostify.analysis.images import ImageFiles, as_batches
from ghostify.analysis.measure import Images
from ghostify.analysis.plots import (
    draw_blocks,
    draw_ghosts,
    draw_maps,
    draw_redundancy,
    figure_bytes,
    figure_title,
    save_figure,
)
from ghostify.analysis.redundancy import LayerRedundancy
from ghostify.analysis.result import Analysis
from ghostify.analysis.watch import Watched, first_tensors
from ghostify.documents.page import Picture
from ghostify.files import make_folder
from ghostify.nn.g_ghost import GGhostStage
from ghostify.nn.ghost import GhostConv2d
from ghostify.numerics.ranking import ranked

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REDUNDANCY = "redundancy"
"""Name of the picture of all layers."""

MOST = 4
"""Layers that are pictured where the caller names none."""


@dataclass(frozen=True)
class _Subject:
    """What the pictures show: one image and what a network makes of it."""

    analysis: Analysis
    watched: Watched
    batch: Tensor
    picture: Any

    def maps(self, *names: str) -> list[Tensor]:
        found = self.watched.maps(self.batch, names)
        return [found[name][0] for name in names]


def draw(
    analysis: Analysis,
    model: nn.Module,
    images: Images,
    directory: str | Path,
    *,
    layers: Sequence[str] = (),
    formats: Sequence[str] = ("png", "svg"),
    input_size: Sequence[int] | None = None,
) -> list[Path]:
    """Draw what an analysis found, for the first image, into a folder.

    Args:
        analysis: What `analyze` found in ``model``.
        model: The network.
        images: The images it was found on.
        directory: The folder; made if it is not there.
        layers: Layers to show the maps of; where none is given, the most redundant ones.
        formats: ``"png"``, ``"svg"`` or both.
        input_size: ``(C, H, W)`` that image files are brought to.

    Returns:
        The files that were written: ``redundancy``, ``maps-LAYER`` (Figure 1), ``ghosts-LAYER``
        (Figure 7, of a C-Ghost network), ``stage-STAGE`` (Figure 13, of a G-Ghost network),
        ``blocks-FIRST-LAST`` (Figure 4).

    Raises:
        GhostifyError: matplotlib is missing, or the folder can't be written.
    """
    folder = Path(directory)
    make_folder(folder)
    written = []
    for name, figure in _figures(_subject(analysis, model, images, input_size), layers):
        written += [save_figure(figure, folder / f"{name}.{suffix}") for suffix in formats]
    return written


def draw_for_page(
    analysis: Analysis,
    model: nn.Module,
    images: Images,
    *,
    layers: Sequence[str] = (),
    input_size: Sequence[int] | None = None,
) -> tuple[Picture, ...]:
    """Draw the maps that `draw` draws, for `Analysis.to_html`.

    Args:
        analysis: What `analyze` found in ``model``.
        model: The network.
        images: The images it was found on.
        layers: Layers to show the maps of; where none is given, the most redundant ones.
        input_size: ``(C, H, W)`` that image files are brought to.

    Raises:
        GhostifyError: matplotlib is missing.
    """
    figures = _figures(_subject(analysis, model, images, input_size), layers)
    return tuple(
        Picture(figure_title(figure) or name, figure_bytes(figure))
        for name, figure in figures
        if name != REDUNDANCY  # the page has bars of its own for it
    )


def _subject(
    analysis: Analysis, model: nn.Module, images: Images, input_size: Sequence[int] | None
) -> _Subject:
    batches = as_batches(images, model, input_size)
    batch = next(iter(first_tensors(batches)))[:1]
    return _Subject(analysis, Watched(model), batch, _picture(batches, batch))


def _figures(subject: _Subject, layers: Sequence[str]) -> Iterator[tuple[str, Figure]]:
    analysis = subject.analysis
    if analysis.layers:
        yield REDUNDANCY, draw_redundancy(analysis)
    for layer in _pictured(analysis, layers):
        for name, draw_one in (("maps", _draw_layer), ("ghosts", _draw_ghost)):
            figure = draw_one(subject, layer)
            if figure is not None:
                yield f"{name}-{layer.name}", figure
    for name, module in subject.watched.modules.items():
        if isinstance(module, GGhostStage) and module.ghosts and module.cheap is not None:
            yield f"stage-{name}", _draw_stage(subject, name, module)
    for blocks in analysis.blocks:
        first, last = subject.maps(blocks.first, blocks.last)
        title = f"{analysis.model}: {blocks.first} and {blocks.last}"
        figure = draw_blocks(first, last, blocks.pairs, title, subject.picture)
        yield f"blocks-{blocks.first}-{blocks.last}", figure


def _draw_layer(subject: _Subject, layer: LayerRedundancy) -> Figure:
    (maps,) = subject.maps(layer.name)
    title = f"{subject.analysis.model}: feature maps of {layer.name}"
    return draw_maps(maps, layer.pairs, title, subject.picture)


def _draw_ghost(subject: _Subject, layer: LayerRedundancy) -> Figure | None:
    module = subject.watched.modules[layer.name]
    if not isinstance(module, GhostConv2d) or module.cheap is None:
        return None
    intrinsic, ghosts = subject.maps(f"{layer.name}.primary", f"{layer.name}.cheap")
    title = f"{subject.analysis.model}: ghost module {layer.name}, s={module.s}, d={module.d}"
    return draw_ghosts(intrinsic, ghosts, title, subject.picture)


def _draw_stage(subject: _Subject, name: str, stage: GGhostStage) -> Figure:
    path, ghosts = subject.maps(f"{name}.thin.{len(stage.thin) - 1}", f"{name}.cheap")
    path = stage.as_maps(path[None])[0]
    labels = f"complicated: {len(path)} maps", f"cheap: {len(ghosts)} ghosts"
    title = f"{subject.analysis.model}: G-Ghost stage {name}"
    return draw_ghosts(path, ghosts, title, subject.picture, labels=labels)


def _pictured(analysis: Analysis, layers: Sequence[str]) -> list[LayerRedundancy]:
    if layers:
        return [layer for layer in analysis.layers if layer.name in set(layers)]
    return ranked(analysis.layers, lambda layer: layer.subsets[0].r2)[:MOST]


def _picture(batches: Any, batch: Tensor) -> Any:
    """The image as a person sees it; of a bare tensor, its values brought between 0 and 1."""
    if isinstance(batches, ImageFiles):
        return batches.open(batches.paths[0])
    values = batch[0].detach().double()
    if len(values) not in (1, 3):
        return None
    low, high = torch.aminmax(values)
    scaled = (values - low) / (high - low).clamp_min(1e-12)
    return scaled.permute(1, 2, 0).squeeze(-1).numpy()
