"""Thin blocks: what makes a block thin, as data, and the block that is cut accordingly.

Where it can, the thin block is a copy of the original module, of its own class, with thin layers in
place; where its code must change (a projection in the shortcut, a width written into the code) it
is a graph module.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx, nn

from ghostify.graph.meta_copy import deepcopy_any
from ghostify.nn.carving import Cut, cut_vector
from ghostify.nn.g_ghost import projection
from ghostify.nn.start import owners_of_hooks
from ghostify.thinning.slicers import slicer_for


@dataclass(frozen=True)
class Shortcut:
    """A projection that a thin block gets where its shortcut's width does not fit.

    Attributes:
        arriving: The channels that arrive, ``(in,)``.
        leaving: The channels that leave, ``(out,)``.
        channels_last: Whether they lie last.
        dims: Dimensions of the maps.
    """

    arriving: Tensor
    leaving: Tensor
    channels_last: bool = False
    dims: int = 2


@dataclass
class ThinRecipe:
    """What makes a block thin.

    Attributes:
        graph: The block's graph, edited where its code must change.
        cuts: What each layer keeps, by its name in the block.
        vectors: Which entries of a parameter or buffer that the code reads itself stay.
        shortcuts: Projections to add, by name.
        is_recorded: Whether the graph is a recording, which stands for the block's code with
            inputs of one size alone: it can't be edited.
        is_edited: Whether the graph differs from the block's own code.
        out_ids: Which of the original's channels come out.
    """

    graph: fx.Graph
    cuts: dict[str, Cut] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)
    shortcuts: dict[str, Shortcut] = field(default_factory=dict)
    is_recorded: bool = False
    is_edited: bool = False
    out_ids: Tensor | None = None


def build_thin(block: nn.Module, recipe: ThinRecipe) -> nn.Module:
    """The thin block, cut from ``block``, which is not changed.

    Args:
        block: The real block, or its meta copy.
        recipe: What `propagate_channels` found.
    """
    # What hooks that are methods belong to, where it is not in the block, stays what it is.
    memo: dict[int, Any] = {id(owner): owner for owner in owners_of_hooks(block)}
    memo |= {id(old): new for old, new in _thin_parts(block, recipe)}
    thin: nn.Module = deepcopy_any(block, memo)
    if not recipe.is_edited:
        return thin
    for name, cut in recipe.shortcuts.items():
        like = next(p for p in block.parameters() if p.dtype.is_floating_point)
        added = projection(cut.arriving, cut.leaving, like, cut.channels_last, cut.dims)
        thin.add_module(name, added)
    module = fx.GraphModule(thin, recipe.graph, class_name=type(block).__name__)
    module.train(block.training)
    return module


def _thin_parts(block: nn.Module, recipe: ThinRecipe) -> Iterator[tuple[Any, Any]]:
    for name, cut in recipe.cuts.items():
        layer = block.get_submodule(name)
        slicer = slicer_for(layer)
        assert slicer is not None
        yield layer, slicer.make(layer, cut)
    for name, kept in recipe.vectors.items():
        tensor = operator.attrgetter(name)(block)
        part = cut_vector(tensor, tensor.numel(), kept)
        is_parameter = isinstance(tensor, nn.Parameter)
        yield tensor, nn.Parameter(part, tensor.requires_grad) if is_parameter else part
