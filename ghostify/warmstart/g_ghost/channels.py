"""Choice of a stage's complicated channels, and of the channels kept inside its thin blocks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.graph.channelwise import is_channelwise
from ghostify.nn.filters import is_plain_conv
from ghostify.nn.g_ghost import Entry
from ghostify.numerics.ranking import ascending, descending, exceeds
from ghostify.warmstart.fit.neighbours import ADDITIONS
from ghostify.warmstart.fit.ridge import inverse_positive, unexplained
from ghostify.warmstart.fit.sampling import WIDEST, PairedInputs, Window, rows_for
from ghostify.warmstart.fit.statistics import RegressionMoments
from ghostify.warmstart.g_ghost.refit import values_of

RIDGE = 1e-3
STEPS = 64
"""In which channels are taken away: of more, several at once."""

ROUNDS = 8
"""Of the choice where the ghosts are made of the ghost channels alone."""


def worst_explained(
    moments: RegressionMoments, taps: int, complicated: int, entry: Entry
) -> Tensor:
    """Find the channels that Y1 explains worst by least squares, in their order.

    Args:
        moments: Of the windows of Y1 (``taps`` regressors a channel) and the channels wanted.
        taps: Size of the cheap operation's window; 0 where ghosts are channels of Y1 as they are.
        complicated: How many channels are wanted.
        entry: Whether the cheap operation sees all channels of Y1 or those of the ghosts.

    Returns:
        Indices of the complicated channels, ``(r,)``, ascending.
    """
    gram, cross = (m[0] for m in moments.centred())
    energy = moments.variance()[0]
    count = len(energy)

    def left(channels: Tensor) -> Tensor:
        used = channels.repeat_interleave(taps)
        if not used.any():
            return energy
        return unexplained(gram[used][:, used], cross[used], energy, RIDGE)

    seen = torch.ones(count, dtype=torch.bool)
    best, least = torch.arange(complicated), float("inf")
    for _ in range(ROUNDS):
        chosen = descending(left(seen))[:complicated].sort().values
        ghosts = torch.ones(count, dtype=torch.bool)
        ghosts[chosen] = False
        if entry == "project":
            return chosen
        cost = float(left(ghosts)[ghosts].sum())
        if not exceeds(least, cost):
            break
        best, least, seen = chosen, cost, ghosts
    return best


def keep_inside(
    block: nn.Module,
    graph: fx.Graph,
    inputs: PairedInputs,
    widths: Iterable[tuple[str, int]],
    outputs: Tensor,
) -> dict[str, Tensor]:
    """Choose the channels to keep inside a thin block: those that the next layer needs most.

    Where a layer's output reaches one convolution alone (through norms, activations, depth-wise
    convolutions), channels are taken away one after the other, each time the one whose loss the
    others make up for best by least squares.

    Args:
        block: The original block.
        graph: Its graph.
        inputs: Of the block.
        widths: Layers, and how many of their outputs are kept.
        outputs: Which of the block's outputs are wanted.

    Returns:
        Indices of the channels that are kept, ascending, by layer.
    """
    nodes = {str(n.target): n for n in graph.nodes if n.op == "call_module"}
    found = {}
    for name, kept in widths:
        reader = _reader(nodes[name], block)
        if reader is None:
            continue
        conv = block.get_submodule(str(reader.target))
        maps = block.get_submodule(name)
        assert isinstance(conv, _ConvNd) and isinstance(maps, _ConvNd)
        if conv.weight[0].numel() > WIDEST or conv.in_channels != maps.out_channels:
            continue
        rows = outputs if _ends_block(reader, block) else None
        weight = conv.weight.double().cpu().flatten(1)
        weight = weight if rows is None else weight[rows]
        gram = _second_moments(block, graph, reader, conv, inputs)
        if not gram.isfinite().all():
            continue
        found[name] = eliminate(gram, weight, conv.in_channels, kept)
    return found


def eliminate(gram: Tensor, weight: Tensor, channels: int, kept: int) -> Tensor:
    """Take channels away, one after the other, so that the least of a linear map is lost.

    Of many channels, some at a time. After each the map of the others is the least-squares one for
    what the whole map gave.

    Args:
        gram: Second moments of the regressors, ``(channels * taps, channels * taps)``.
        weight: The map, ``(outputs, channels * taps)``.
        channels: Number of channels; each has as many regressors.
        kept: How many stay.

    Returns:
        Indices of those that stay, ascending.
    """
    taps = gram.shape[0] // channels
    inverse = inverse_positive(gram, 1e-4)
    weight = weight.T.clone()
    stays = torch.ones(channels, dtype=torch.bool)
    index = torch.arange(channels * taps).view(channels, taps)
    at_once = max(1, (channels - kept) // STEPS)
    while int(stays.sum()) > kept:
        own = inverse[index[:, :, None], index[:, None, :]]
        own = torch.where(stays[:, None, None], own, torch.eye(taps, dtype=own.dtype))
        parts = weight.view(channels, taps, -1)
        loss = (torch.linalg.solve(own, parts) * parts).sum((1, 2))
        loss[~stays] = float("inf")
        gone = ascending(loss)[: min(at_once, int(stays.sum()) - kept)]
        rows = index[gone].flatten()
        lines = inverse[:, rows]
        back = torch.linalg.solve(lines[rows], torch.cat([weight[rows], lines.T], 1))
        weight -= lines @ back[:, : weight.shape[1]]
        inverse -= lines @ back[:, weight.shape[1] :]
        weight[rows] = 0
        stays[gone] = False
    return stays.nonzero().flatten()


def _second_moments(
    block: nn.Module, graph: fx.Graph, reader: fx.Node, conv: _ConvNd, inputs: PairedInputs
) -> Tensor:
    """Centred second moments of a convolution's windows in the teacher."""
    size = conv.weight[0].numel()
    sampler = inputs.sampler(rows_for(size**2, 4 * size))
    source = reader.all_input_nodes[0].name

    def rows() -> Iterator[tuple[Tensor, Tensor]]:
        for x in inputs.teacher.batches(inputs.batch):
            values = values_of(graph, block, x, {source, reader.name})
            places = sampler.sample(values[reader.name].shape)
            seen = Window.of(conv).regressors(values[source], places)
            yield seen, seen[:, :, :0]

    return RegressionMoments.of(1, size, 0, rows()).centred()[0][0]


def _reader(node: fx.Node, block: nn.Module) -> fx.Node | None:
    """The one convolution that reads a layer's output, channel by channel on the way there."""
    while len(node.users) == 1:
        node = next(iter(node.users))
        if len(node.all_input_nodes) != 1:
            return None
        layer = block.get_submodule(str(node.target)) if node.op == "call_module" else None
        if is_plain_conv(layer) and layer.groups == 1:
            return node
        if not is_channelwise(node, layer):
            return None
    return None


def _ends_block(node: fx.Node, block: nn.Module) -> bool:
    """Whether the block's outputs are those of this layer, channel by channel."""
    stack, seen = list(node.users), set[fx.Node]()
    while stack:
        current = stack.pop()
        if current not in seen:
            seen.add(current)
            stack.extend(current.users)
    return all(_keeps_channels(after, block) for after in seen)


def _keeps_channels(node: fx.Node, block: nn.Module) -> bool:
    """Whether a node gives each channel of what it gets, or is the block's end."""
    if node.op == "output" or node.target in ADDITIONS:
        return True
    layer = block.get_submodule(str(node.target)) if node.op == "call_module" else None
    return is_channelwise(node, layer)
