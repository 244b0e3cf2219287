"""How much a network's output feels errors of each layer, and what its maps say of each other.

To second order the output's divergence is the square of gradient times error (Fisher's matrix). The
errors of ghosts at different places and maps are taken as independent: what is left is, for each
map, its squared gradient times its squared error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.data.calibration import batch_size
from ghostify.data.spool import Spool
from ghostify.distributed import count_of_all, sum_over_processes
from ghostify.graph.calls import call, names_of
from ghostify.graph.segments import Segment, split
from ghostify.nn.ghost import KernelSize, sizes_of
from ghostify.numerics.nested import tensors_in
from ghostify.warmstart.fit.sampling import MapSampler, Window, by_group, pick, rows_for
from ghostify.warmstart.fit.statistics import WindowMoments, WindowStatistics, require_finite

LARGEST = 2**26
"""Sums that are kept at a time, in numbers (of eight bytes)."""

MOST_NUMBERS = 2**19
"""Numbers of the images that go backwards at a time: all their maps are kept meanwhile."""


def gradients(
    network: nn.Module, names: Sequence[str], images: Spool, seed: int
) -> dict[str, Tensor]:
    """For each map of some layers the squared gradient of the output, ``(n,)`` by name.

    Class scores are asked for the likelihood of a class that is drawn from them (Fisher's matrix);
    any other output for its product with a random one. Summed over places, the mean over images.

    Args:
        network: In eval mode, and the caller's to change: its parameters are frozen. Its layers'
            outputs are ``(N, n, ...)``.
        names: The layers; those that have no part in the output are left out.
        images: What it gets.
        seed: Of what is drawn.
    """
    layers = {name: network.get_submodule(name) for name in names}
    felt = {name: torch.zeros(_channels(layers[name]), dtype=torch.float64) for name in names}
    generator = torch.Generator().manual_seed(seed)
    numbers = sum(tensor.numel() for tensor in tensors_in(images.take([0])))
    size = max(1, min(64, MOST_NUMBERS // max(numbers, 1)))

    def watch(name: str) -> Any:
        def add(gradient: Tensor) -> None:
            felt[name] += gradient.double().square().transpose(0, 1).flatten(1).sum(1).cpu()

        def hook(_: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
            # Nothing before it needs a gradient: the network's parameters don't, nor its inputs.
            out = out if out.requires_grad else out.requires_grad_().clone()
            out.register_hook(add)
            return out

        return hook

    with ExitStack() as stack:
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        for name, layer in layers.items():
            stack.callback(layer.register_forward_hook(watch(name)).remove)
        for x in images.batches(size):
            with torch.enable_grad():
                _question(call(network, x), generator).backward()
    count = torch.tensor(float(len(images)), dtype=torch.float64)
    sum_over_processes(count, *felt.values())
    require_finite(*felt.values())
    return {name: total / count for name, total in felt.items() if total.any()}


def _channels(layer: nn.Module) -> int:
    assert isinstance(layer, _ConvNd)
    return layer.out_channels


def _question(output: Any, generator: torch.Generator) -> Tensor:
    """What the output is asked for; a sum over images."""
    found = [x for x in tensors_in(output) if x.requires_grad]
    if len(found) == 1 and found[0].ndim == 2 and found[0].shape[1] > 1:
        scores = found[0].float()
        drawn = torch.multinomial(scores.detach().softmax(1).cpu(), 1, generator=generator)
        return F.cross_entropy(scores, drawn[:, 0].to(scores.device), reduction="sum")
    asked = (x * torch.randn(x.shape, generator=generator).to(x) for x in found)
    return torch.stack([part.sum() for part in asked]).sum()


@torch.no_grad()
def looks_at(
    network: nn.Module, kernels: Mapping[str, KernelSize], images: Spool, seed: int
) -> Iterator[tuple[str, WindowStatistics, int]]:
    """What windows on each layer's maps say of its maps: name, sums, and how many rows they are of.

    Segment after segment, and in each as many layers at a time as memory takes.

    Args:
        network: In eval mode.
        kernels: Sizes d of the windows, by the layers' names.
        images: What it gets.
        seed: Of the places that are looked at.
    """
    batch = batch_size(images.take([0]), 128)
    given_names = names_of(network, images.take([0]))
    segments = split(network, lambda name: name in kernels, given_names)
    given = images
    for segment in segments:
        outputs = Spool()
        for turn, names in enumerate(_some_at_a_time(network, segment, kernels)):
            watches = {name: _Looking(network, name, kernels[name], given, seed) for name in names}
            is_first = turn == 0 and segment is not segments[-1]
            with ExitStack() as stack:
                for watch in watches.values():
                    stack.callback(watch.layer.register_forward_hook(watch.see).remove)
                for start, end in given.spans(batch):
                    out = segment.run(network, given.slice((start, end)))
                    if is_first:
                        outputs.append(out, end - start)
            for name, watch in watches.items():
                if watch.rows:
                    sums = watch.looks.summed()
                    yield name, sums, watch.total_rows()
        given = outputs


def _some_at_a_time(
    network: nn.Module, segment: Segment, kernels: Mapping[str, KernelSize]
) -> Iterator[list[str]]:
    """The layers of a segment in parts whose sums fit into memory; one part at least."""
    part: list[str] = []
    used = 0
    for name in segment.layers:
        if name in kernels:
            layer = network.get_submodule(name)
            assert isinstance(layer, _ConvNd)
            taps = prod(sizes_of(kernels[name], len(layer.kernel_size)))
            numbers = layer.out_channels**2 // layer.groups * taps
            if part and used + numbers > LARGEST:
                yield part
                part, used = [], 0
            part.append(name)
            used += numbers
    yield part


class _Looking:
    """A layer and the sums of what is seen in its maps."""

    def __init__(
        self, network: nn.Module, name: str, d: KernelSize, images: Spool, seed: int
    ) -> None:
        layer = network.get_submodule(name)
        assert isinstance(layer, _ConvNd)
        sizes = sizes_of(d, len(layer.kernel_size))
        self.layer, self.groups, self.window, self.rows = layer, layer.groups, Window.same(sizes), 0
        maps, taps = layer.out_channels // layer.groups, prod(sizes)
        self.looks = WindowMoments(layer.groups, maps, taps)
        self.places = MapSampler(len(images), rows_for(layer.groups * maps**2 * taps, 4096), seed)

    def see(self, _: nn.Module, args: tuple[Any, ...], maps: Tensor) -> None:
        places = self.places.sample(maps.shape)
        maps = maps.float()
        seen = self.window.patches(maps, *places).unflatten(0, (self.groups, -1))
        self.looks.add(seen.permute(0, 2, 3, 1), by_group(pick(maps, *places), self.groups))
        self.rows += len(maps) * len(places[0])

    def total_rows(self) -> int:
        """Rows of all processes."""
        return count_of_all(self.rows)
