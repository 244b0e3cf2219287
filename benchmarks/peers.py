"""Torch-Pruning, to a number of MACs: what `recovery.py` and `latency.py` compare with."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
import torch_pruning as tp
from at_time import largest
from torch import Tensor, nn

import ghostify

HALVINGS = 7


def prune_to(network: nn.Module, method: str, limit: int, images: Tensor) -> nn.Module:
    """The least pruned network of at most ``limit`` MACs, by halving the ratio's interval.

    Torch-Pruning does not understand the zero padding of channels in the shortcuts of these
    networks (it breaks them), so the layers whose outputs are added to a shortcut keep their width.
    Magnitude prunes each layer alike and Taylor globally, which was the better choice for each.
    """
    found = largest(
        lambda part: prune(network, method, 1 - part, images),
        lambda net: ghostify.count(net, input_size=tuple(images.shape[1:])).total.macs <= limit,
        HALVINGS,
    )
    if found is None:
        raise ValueError(f"{method} finds no network of at most {limit} MACs")
    return found


def prune(
    network: nn.Module, method: str, ratio: float, images: Tensor, round_to: int | None = None
) -> nn.Module:
    """A copy with a part of the channels pruned, in layers whose outputs are not added up."""
    pruned = copy.deepcopy(network)
    kept = [
        layer
        for name, layer in pruned.named_modules()
        if isinstance(layer, nn.Linear) or name == "conv1" or name.endswith(".conv2")
    ]
    if method == "taylor":
        importance = tp.importance.GroupTaylorImportance()
        for x in images[:1024].split(128):
            # Labels of its own making: the calibration images have none.
            scores = pruned(x)
            F.cross_entropy(scores, scores.detach().argmax(1)).backward()
    else:
        importance = tp.importance.GroupMagnitudeImportance(p=2)
    tp.pruner.BasePruner(
        pruned, torch.zeros(1, *images.shape[1:]), importance=importance, pruning_ratio=ratio,
        global_pruning=method == "taylor", ignored_layers=kept, max_pruning_ratio=0.95,
        round_to=round_to,
    ).step()  # fmt: skip
    pruned.zero_grad()
    return pruned


def prune_evenly(network: nn.Module, macs: int, size: tuple[int, int, int]) -> nn.Module:
    """All layers but the last pruned alike, by magnitudes, to about so many MACs; any network.

    Widths are multiples of 8, as a user who wants it fast would have them.
    """
    low, high, found, nearest = 0.0, 1.0, network, float("inf")
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1:]
    for _ in range(HALVINGS):
        ratio = (low + high) / 2
        pruned, ignored = copy.deepcopy((network, last))
        tp.pruner.BasePruner(
            pruned, torch.zeros(1, *size), importance=tp.importance.GroupMagnitudeImportance(p=2),
            pruning_ratio=ratio, ignored_layers=ignored, round_to=8,
        ).step()  # fmt: skip
        excess = ghostify.count(pruned, input_size=size).total.macs - macs
        low, high = (low, ratio) if excess <= 0 else (ratio, high)
        if abs(excess) < nearest:
            nearest, found = abs(excess), pruned
    return found
