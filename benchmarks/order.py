"""What the index costs that puts a ghost module's channels into their order.

    python benchmarks/order.py

A ResNet-50 of ghost modules in three states: without any order (as a plain conversion leaves it),
with one in every ghost module, and with those that `fold_orders` leaves. CPU time of one image,
medians of rounds in which each has its turn.
"""

from __future__ import annotations

import argparse
import copy
from functools import partial
from statistics import median

import torch
from measure import alternating_seconds, one_core
from torch import nn

import ghostify
from ghostify.graph.segments import split
from ghostify.nn.ghost import GhostConv2d
from ghostify.warmstart.folding import fold_orders

FORMATS = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}


def states_of(network: nn.Module) -> dict[str, nn.Module]:
    """The original and its conversion in three states."""
    plain = ghostify.convert(network, s=2).eval()
    ordered = copy.deepcopy(plain)
    names = set()
    for name, module in ordered.named_modules():
        if isinstance(module, GhostConv2d):
            module.set_order(torch.randperm(module.out_channels))
            names.add(name)
    folded = copy.deepcopy(ordered)
    count = fold_orders(split(network, names.__contains__), folded)
    print(f"{len(names)} ghost modules, {count} of them folded")
    return {"original": network, "no order": plain, "all orders": ordered, "folded": folded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet50")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.manual_seed(0)
    one_core()
    networks = states_of(ghostify.build(options.network).eval())
    for name, memory_format in FORMATS.items():
        moved = {k: n.to(memory_format=memory_format) for k, n in networks.items()}
        x = torch.randn(1, 3, options.size, options.size).contiguous(memory_format=memory_format)
        works = [partial(network, x) for network in moved.values()]
        with torch.no_grad():
            times = map(median, alternating_seconds(works, options.rounds))
        found = dict(zip(moved, times, strict=True))
        ratios = {k: f"{v / found['no order']:.2f}" for k, v in found.items()}
        print(f"{name}: no order {1000 * found['no order']:.0f} ms; as its multiple: {ratios}")


if __name__ == "__main__":
    main()
