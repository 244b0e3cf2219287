"""From blocks to a G-Ghost stage: the blocks as modules, their thin versions, the parts beside."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import lcm

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.trace import frozen_tensors, trace_graph
from ghostify.nn.g_ghost import GGhostStage, Mix, cheap_operation
from ghostify.plans import StageRebuild
from ghostify.settings import GGhost
from ghostify.thinning.channel_propagation import Maps, Wanted, propagate_channels
from ghostify.thinning.slicers import NotScalable, Widths
from ghostify.thinning.thin import ThinRecipe, build_thin


def block_modules(
    model: nn.Module, stage: StageRebuild, meta: nn.Module | None = None
) -> list[nn.Module]:
    """The blocks of a stage, each as one module; they share their parts with ``model``.

    Where the stage begins with what enters it, an identity is its first block.

    Args:
        model: The network.
        stage: The stage.
        meta: Its meta copy in eval mode, for tracing; None where ``model`` is that itself.

    Raises:
        AttributeError: The model has no such modules.
    """
    if stage.functions is not None:
        region, nodes = stage.functions
        module = model.get_submodule(region)
        graph = trace_graph((meta or model).get_submodule(region))
        return [_part_of_graph(module, graph, names) for names in nodes]
    blocks: list[nn.Module] = []
    for names in stage.blocks:
        parts = [model.get_submodule(name) for name in names]
        blocks.append(parts[0] if len(parts) == 1 else nn.Sequential(*parts))
    return [nn.Identity().train(blocks[0].training), *blocks] if stage.from_input else blocks


def _part_of_graph(module: nn.Module, graph: fx.Graph, names: Sequence[str]) -> nn.Module:
    """A graph module of some successive nodes with one input."""
    by_name = {node.name: node for node in graph.nodes}
    part = fx.Graph()
    wanted = [by_name[name] for name in names]
    if frozen_tensors(wanted):
        raise NotScalable("its forward makes a tensor that a trace would freeze")
    inside = set(wanted)
    outside = next(n for node in wanted for n in node.all_input_nodes if n not in inside)
    copies = {outside: part.placeholder("x")}
    for node in wanted:
        copies[node] = part.node_copy(node, copies.__getitem__)
    part.output(copies[wanted[-1]])
    return fx.GraphModule(module, part, class_name="Block")


def complicated_channels(channels: int, ratio: float, step: int) -> int:
    """The number r of complicated channels: ``(1 - ratio) * channels``, rounded down to ``step``.

    Example:
        >>> complicated_channels(432, 0.5, step=36), complicated_channels(64, 0.5, step=1)
        (216, 32)
    """
    return int(round((1 - ratio) * channels, 6)) // step * step


def group_widths(blocks: Iterable[nn.Module]) -> frozenset[int]:
    """Widths of the groups of all grouped (not depth-wise) convolutions in the blocks."""
    convs = (m for block in blocks for m in block.modules() if isinstance(m, _ConvNd))
    return frozenset(
        conv.in_channels // conv.groups for conv in convs if 1 < conv.groups < conv.in_channels
    )


def has_full_last(stage: StageRebuild, settings: GGhost) -> bool:
    """Whether the stage's last block stays as wide as it is."""
    return settings.tail == "full" and not stage.from_input


def middle(
    blocks: Sequence[nn.Module], stage: StageRebuild, settings: GGhost
) -> Sequence[nn.Module]:
    """The blocks that become thin."""
    return blocks[1:-1] if has_full_last(stage, settings) else blocks[1:]


def channel_step(
    blocks: Sequence[nn.Module], stage: StageRebuild, settings: GGhost, divisor: int
) -> int:
    """The step that the number of complicated channels must be a multiple of."""
    groups = group_widths(middle(blocks, stage, settings))
    widths = Widths(stage.channels, 1, settings.group_width, divisor, groups)
    return lcm(widths.step(stage.channels), divisor)


@dataclass(frozen=True)
class Choice:
    """Which channels the thin blocks of a stage keep.

    Attributes:
        complicated: The channels of the stage that they make, ``(r,)``.
        inside: For each thin block, by layer, the channels of the widths inside it.
    """

    complicated: Tensor
    inside: tuple[Mapping[str, Tensor], ...] = ()


def thin_recipes(
    meta: Sequence[nn.Module],
    stage: StageRebuild,
    settings: GGhost,
    choice: Choice | None = None,
) -> list[ThinRecipe]:
    """How each thin block of a stage is made.

    Args:
        meta: The stage's blocks on the meta device, in eval mode.
        stage: What is to become of them.
        settings: How.
        choice: Which channels are kept where layers are free to choose; the first, if not given.

    Raises:
        NotScalable: One of them can't be made thinner.
    """
    blocks = middle(meta, stage, settings)
    groups = group_widths(blocks)
    r, c = stage.complicated, stage.channels
    arriving = torch.arange(r if settings.entry == "slice" else c)
    if choice is not None and settings.entry == "slice":
        arriving = choice.complicated
    recipes = []
    with torch.no_grad():
        x: Tensor = meta[0](torch.empty(stage.in_shape, dtype=_like(meta).dtype, device="meta"))
        for index, block in enumerate(blocks):
            makes_all = settings.cheap == "none" and index == len(blocks) - 1
            wanted = c if makes_all else r
            widths = Widths(c, wanted, settings.group_width, stage.divisor, groups)
            kept = _wanted(choice, index, makes_all)
            given = Maps(x, arriving, stage.channel_dim)
            recipe = propagate_channels(block, given, widths, stage.thin_inside, stage.wide, kept)
            assert recipe.out_ids is not None
            arriving = recipe.out_ids
            if len(arriving) != wanted:
                raise NotScalable(
                    f"a thin block of it gives {len(arriving)} channels instead of {wanted}"
                )
            recipes.append(recipe)
            x = block(x)
    return recipes


def _wanted(choice: Choice | None, index: int, makes_all: bool) -> Wanted:
    if choice is None:
        return Wanted()
    inside = choice.inside[index] if index < len(choice.inside) else {}
    return Wanted(None if makes_all else choice.complicated, inside)


def build_stage(
    blocks: Sequence[nn.Module],
    recipes: Sequence[ThinRecipe],
    stage: StageRebuild,
    settings: GGhost,
) -> GGhostStage:
    """The G-Ghost stage; its first and last block are those given, not copies."""
    r, c, dims = stage.complicated, stage.channels, len(stage.out_shape) - 2
    like = _like(blocks)
    has_ghosts = settings.cheap != "none"
    cheap = None
    if isinstance(settings.cheap, int):
        inputs = c - r if settings.entry == "slice" else c
        cheap = cheap_operation(inputs, c - r, settings.cheap, like, dims)
    mix = None
    if settings.mix != "none" and has_ghosts:
        pooled = r * len(recipes) + (c if settings.mix_from == "all" else 0)
        mix = Mix(pooled, c - r, settings.mix, like.device, like.dtype, dims)
    thin = [
        build_thin(block, recipe)
        for block, recipe in zip(middle(blocks, stage, settings), recipes, strict=True)
    ]
    module = GGhostStage(
        blocks[0],
        thin,
        cheap,
        mix,
        blocks[-1] if has_full_last(stage, settings) else None,
        channels=c,
        complicated=r,
        entry=settings.entry,
        mix_from=settings.mix_from,
        ghost_act=settings.ghost_act and has_ghosts,
        ghosts=has_ghosts,
        channels_last=stage.channels_last,
    )
    _set_mode(module, blocks[0].training)
    return module


def _set_mode(module: GGhostStage, training: bool) -> None:
    """The original's mode for the new parts (a block that was frozen in eval mode stays so)."""
    module.training = training
    module.thin.training = training
    for part in (module.cheap, module.mix, module.ghost_act):
        if part is not None:
            part.train(training)


def _like(blocks: Iterable[nn.Module]) -> Tensor:
    floats = (p for block in blocks for p in block.parameters() if p.dtype.is_floating_point)
    return next(floats)
