"""Pictures of feature maps and of what an analysis found (needs matplotlib)."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ghostify.analysis.redundancy import Pair
from ghostify.analysis.result import Analysis
from ghostify.errors import GhostifyError
from ghostify.files import writing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart by colour-blind eyes too.
COLOURS = ("#d55e00", "#009e73", "#0072b2", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", "#000000")
PRIMARY, CHEAP = "#d55e00", "#009e73"
LONGEST = 64
"""Maps that one grid shows."""

INCH = 0.62
"""Side of one map in a grid."""

PICTURE, MARGIN = 1.9, 0.25


def draw_maps(
    maps: Tensor, pairs: Sequence[Pair] = (), title: str = "", picture: Any = None
) -> Figure:
    """The feature maps of a layer in a grid, alike pairs framed in one colour (Figure 1).

    Args:
        maps: ``(C, H, W)`` of one image; of more than 64 channels those of the pairs and the first
            others are shown.
        pairs: The pairs to frame.
        title: What is shown.
        picture: The image itself, shown beside the grid.
    """
    shown = _shown(len(maps), [c for pair in pairs for c in (pair.source, pair.target)])
    columns = _columns(len(shown))
    side, rows = columns * INCH, math.ceil(len(shown) / columns)
    left = MARGIN + (PICTURE + 0.45 if picture is not None or pairs else 0.0)
    needed = PICTURE * (picture is not None) + 0.33 * len(pairs) + 0.1
    figure = _figure(left + side + MARGIN, max(rows * INCH, needed) + 0.9, title)
    top = float(figure.get_size_inches()[1]) - 0.7
    cells = _grid(figure, maps, shown, columns, (left, top - rows * INCH, side, rows * INCH))
    for pair, colour in zip(pairs, COLOURS, strict=False):
        for channel in (pair.source, pair.target):
            _frame(cells[channel], colour)
    if picture is not None:
        _show_picture(figure, picture, top)
    _legend(figure, pairs, (MARGIN - 0.1, top - PICTURE * (picture is not None) - 0.05))
    return figure


def draw_ghosts(
    intrinsic: Tensor,
    ghosts: Tensor,
    title: str = "",
    picture: Any = None,
    labels: tuple[str, str] | None = None,
) -> Figure:
    """Intrinsic maps beside the ghosts that the cheap operation makes of them (Figures 7, 13).

    Args:
        intrinsic: ``(m, H, W)``.
        ghosts: ``(m * (s - 1), H, W)``; each stands where its intrinsic map does in the other grid
            (for s = 2).
        title: What is shown.
        picture: The image itself.
        labels: What the two grids are called.
    """
    if labels is None:
        labels = (f"primary: {len(intrinsic)} intrinsic maps", f"cheap: {len(ghosts)} ghosts")
    return _draw_two((intrinsic, ghosts), labels, (PRIMARY, CHEAP), title, picture, ())


def draw_blocks(
    first: Tensor, last: Tensor, pairs: Sequence[Pair] = (), title: str = "", picture: Any = None
) -> Figure:
    """Maps of the first and of the last block of a stage, alike ones framed (Figure 4).

    Args:
        first: ``(C, H, W)``.
        last: ``(C', H, W)``.
        pairs: Channels of the first and of the last block.
        title: What is shown.
        picture: The image itself.
    """
    return _draw_two(
        (first, last), ("first block", "last block"), ("#666666", "#666666"), title, picture, pairs
    )


def draw_redundancy(analysis: Analysis) -> Figure:
    """What the best n/s channels of each layer explain of the others, layer by layer."""
    layers = analysis.layers
    names = [layer.name for layer in layers]
    below = 0.25 + 0.068 * max(map(len, names), default=0)
    width, height = max(7.0, 0.17 * len(layers) + 1.2), below + 2.9
    figure = _figure(width, height, "")
    axes = figure.add_axes(_box(0.65, below, width - 0.8, 2.5, width, height))
    positions = range(len(layers))
    tried = [subset.s for subset in layers[0].subsets] if layers else []
    for s, colour, marker in zip(tried, (COLOURS[2], COLOURS[0], COLOURS[1]), "osD", strict=False):
        shares = [layer.subset(s).r2 for layer in layers]
        axes.plot(positions, shares, color=colour, lw=1.2, marker=marker, ms=3.5, label=f"s={s}")
    axes.axhline(analysis.min_r2, color="#666666", lw=0.8, ls="--")
    axes.set(ylim=(0, 1), xlim=(-0.6, len(layers) - 0.4), yticks=[0, 0.25, 0.5, 0.75, 1])
    axes.set_ylabel("explained variance of the other channels", fontsize=8)
    step = max(1, math.ceil(len(layers) / 60))
    axes.set_xticks(list(positions)[::step], names[::step])
    axes.tick_params(axis="x", labelrotation=90, labelsize=6.5)
    axes.tick_params(axis="y", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=3, loc="upper right")
    d = analysis.d
    axes.set_title(
        f"{analysis.model}: how far n/s channels of a layer stand for all of them "
        f"({d}x{d} kernels, {analysis.images} images)",
        fontsize=9.5, loc="left",
    )  # fmt: skip
    return figure


def figure_bytes(figure: Figure) -> bytes:
    """A figure as the bytes of a PNG file."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=110, metadata={"Software": None}, format="png")
    return stream.getvalue()


def figure_title(figure: Figure) -> str:
    """What a figure says that it shows; empty where it says nothing."""
    return figure.texts[0].get_text() if figure.texts else ""


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG, told by the suffix; the same figure gives the same bytes.

    Raises:
        GhostifyError: It can't be written there.
    """
    import matplotlib

    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    form = path.suffix[1:]
    with (
        matplotlib.rc_context({"svg.hashsalt": "ghostify", "svg.fonttype": "none"}),
        writing(path) as draft,
    ):
        figure.savefig(draft, dpi=150, metadata=metadata, format=form)
    return path


def _draw_two(
    both: tuple[Tensor, Tensor],
    labels: tuple[str, str],
    colours: tuple[str, str],
    title: str,
    picture: Any,
    pairs: Sequence[Pair],
) -> Figure:
    """Two grids side by side, each in a frame with a label; pairs are framed across them."""
    chosen = (
        _shown(len(both[0]), [pair.source for pair in pairs]),
        _shown(len(both[1]), [pair.target for pair in pairs]),
    )
    columns = _columns(max(map(len, chosen)))
    rows = max(math.ceil(len(shown) / columns) for shown in chosen)
    side = columns * INCH
    left = MARGIN + (PICTURE + 0.55 if picture is not None or pairs else 0.1)
    needed = PICTURE * (picture is not None) + 0.33 * len(pairs) + 0.1
    figure = _figure(left + 2 * side + 0.4 + MARGIN, max(rows * INCH, needed) + 1.2, title)
    width, height = figure.get_size_inches()
    top = height - 0.95
    for index, (maps, shown) in enumerate(zip(both, chosen, strict=True)):
        x = left + index * (side + 0.4)
        used = math.ceil(len(shown) / columns) * INCH
        cells = _grid(figure, maps, shown, columns, (x, top - used, side, used))
        _panel(figure, (x - 0.08, top - used - 0.08, side + 0.16, used + 0.16), colours[index])
        place = (x - 0.08) / width, (top + 0.15) / height
        figure.text(*place, labels[index], fontsize=9, color=colours[index], weight="bold")
        for pair, colour in zip(pairs, COLOURS, strict=False):
            _frame(cells[(pair.source, pair.target)[index]], colour)
    if picture is not None:
        _show_picture(figure, picture, top)
    _legend(figure, pairs, (MARGIN - 0.1, top - PICTURE * (picture is not None) - 0.05))
    return figure


def _grid(
    figure: Figure,
    maps: Tensor,
    shown: Sequence[int],
    columns: int,
    box: tuple[float, float, float, float],
) -> dict[int, Axes]:
    """Draw maps into a grid; its box is in inches, rows fill from the top."""
    width, height = figure.get_size_inches()
    cells: dict[int, Axes] = {}
    for place, channel in enumerate(shown):
        row, column = divmod(place, columns)
        x, y = box[0] + column * INCH, box[1] + box[3] - (row + 1) * INCH
        axes = figure.add_axes(_box(x + 0.03, y + 0.03, INCH - 0.06, INCH - 0.06, width, height))
        _show_map(axes, maps[channel])
        axes.text(
            0.04, 0.95, str(channel), transform=axes.transAxes, fontsize=4.5, va="top",
            color="white", bbox={"facecolor": "black", "alpha": 0.45, "lw": 0, "pad": 0.6},
        )  # fmt: skip
        cells[channel] = axes
    return cells


def _show_map(axes: Axes, values: Tensor) -> None:
    """One map, scaled to its own range (1st to 99th percentile); a constant one is grey."""
    values = values.detach().double()
    low, high = torch.quantile(values.flatten()[:1_000_000], torch.tensor([0.01, 0.99]).double())
    if not high > low:
        low, high = values.min(), values.max()
    constant = not bool(high > low)
    axes.imshow(
        values.numpy(), cmap="gray" if constant else "viridis", interpolation="nearest",
        vmin=float(low) - constant, vmax=float(high) + constant,
    )  # fmt: skip
    axes.set(xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _show_picture(figure: Figure, picture: Any, top: float) -> None:
    """The image, at the left edge."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes(_box(MARGIN, top - PICTURE, PICTURE, PICTURE, width, height))
    axes.imshow(picture, interpolation="nearest", cmap="gray")
    axes.set(xticks=[], yticks=[], anchor="NW")
    axes.set_title("input", fontsize=8, loc="left", pad=3)


def _frame(axes: Axes, colour: str) -> None:
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=2.6)
    axes.set_zorder(2)


def _panel(figure: Figure, box: tuple[float, float, float, float], colour: str) -> None:
    from matplotlib.patches import Rectangle

    width, height = figure.get_size_inches()
    x, y, w, h = _box(*box, width, height)
    figure.add_artist(Rectangle((x, y), w, h, fill=False, ec=colour, lw=1.6))


def _legend(figure: Figure, pairs: Sequence[Pair], corner: tuple[float, float]) -> None:
    """What the colours mean, a line for each pair; the upper left corner is in inches."""
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor="none", edgecolor=colour, linewidth=2, label=_pair_label(pair))
        for pair, colour in zip(pairs, COLOURS, strict=False)
    ]
    if handles:
        width, height = figure.get_size_inches()
        figure.legend(
            handles=handles, loc="upper left", frameon=False, fontsize=7, handlelength=1,
            handleheight=1, labelspacing=0.8,
            bbox_to_anchor=(corner[0] / width, corner[1] / height),
        )  # fmt: skip


def _pair_label(pair: Pair) -> str:
    label = f"{pair.source}, {pair.target}: r = {pair.correlation:+.2f}"
    fit = next((fit for fit in pair.fits if fit.d == 3), None)
    return label if fit is None else f"{label}\n3x3 kernel explains {fit.r2:.0%}"


def _shown(channels: int, wanted: Sequence[int]) -> list[int]:
    """Which maps a grid shows: those wanted, and the first others, in order."""
    chosen = list(dict.fromkeys(wanted))[:LONGEST]
    others = [channel for channel in range(channels) if channel not in set(chosen)]
    return sorted(chosen + others[: LONGEST - len(chosen)])


def _columns(count: int) -> int:
    return max(1, math.ceil(math.sqrt(count)))


def _figure(width: float, height: float, title: str) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise GhostifyError("Pictures need matplotlib: pip install 'ghostify[plots]'.") from error
    figure = Figure(figsize=(width, height), facecolor="white")
    if title:
        figure.text(0.15 / width, 1 - 0.28 / height, title, fontsize=10, va="center")
    return figure


def _box(
    x: float, y: float, w: float, h: float, width: float, height: float
) -> tuple[float, float, float, float]:
    """Inches as fractions of the figure."""
    return x / width, y / height, w / width, h / height
