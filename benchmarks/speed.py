"""What converting and counting cost: time on one core, and memory.

    python benchmarks/speed.py                              # print the tables (a minute or two)
    python benchmarks/speed.py --write docs/benchmarks.md   # and put them into the docs

Needs ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import logging
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import measure
import torch
from measure import MB
from tables import Table, write_between
from torch import nn

import ghostify
from ghostify.models.cifar import ResNet

IMAGE = (1, 3, 224, 224)


def build(name: str) -> nn.Module:
    return ghostify.build(name)


def bottlenecks(blocks: tuple[int, int, int, int]) -> nn.Module:
    """The residual network of torchvision's bottlenecks: 3 layers each, a stem and a head."""
    from torchvision.models.resnet import Bottleneck
    from torchvision.models.resnet import ResNet as TorchvisionResNet

    return TorchvisionResNet(Bottleneck, list(blocks))


def convert(model: nn.Module) -> nn.Module:
    return ghostify.convert(model, mode="c-ghost")


def convert_and_weigh(model: nn.Module) -> int:
    """Convert; return the bytes of the converted network's parameters."""
    return sum(p.numel() * p.element_size() for p in convert(model).parameters())


def count_with_ghostify(model: nn.Module) -> int:
    macs = ghostify.count(model, input_size=IMAGE[1:]).total.macs
    assert macs is not None
    return macs


def count_with_fvcore(model: nn.Module) -> int:
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(model.eval(), torch.zeros(IMAGE))
    return int(analysis.unsupported_ops_warnings(False).total())


def conversion_time(repeats: int) -> Table:
    model = build("resnet50")
    building = measure.typical_seconds(partial(build, "resnet50"), repeats)
    converting = measure.typical_seconds(partial(convert, model), repeats)
    first = measure.in_fresh_process(measure.first_seconds, partial(build, "resnet50"), convert)
    rows = (
        ("building it", f"{building:.2f} s", "1"),
        ("converting it, with all counts", f"{converting:.2f} s", f"{converting / building:.2f}"),
        ("the same, first call of a process", f"{first:.2f} s", f"{first / building:.2f}"),
    )
    note = (
        f"Medians of {repeats} runs; the first call once, in a process of its own: "
        "it loads the parts of PyTorch that conversion needs. Aim: under 1 s beyond building."
    )
    return Table("Converting ResNet50", ("", "CPU time", "to building"), rows, note)


def growth(depths: tuple[int, ...], blocks: tuple[tuple[int, int, int, int], ...]) -> Table:
    networks: list[tuple[str, int, Any]] = [
        *((f"ResNet-{depth}, CIFAR", depth, partial(ResNet, depth)) for depth in depths),
        *(
            (f"ResNet-{3 * sum(b) + 2}, bottlenecks", 3 * sum(b) + 2, partial(bottlenecks, b))
            for b in blocks
        ),
    ]
    rows = []
    for name, layers, factory in networks:
        model = factory()
        work = partial(convert, model)
        seconds = measure.typical_seconds(work, repeats=5)
        without = measure.typical_seconds(work, repeats=5, collector=False)
        params = sum(p.numel() for p in model.parameters())
        per_layer = (f"{value / layers * 1e3:.2f} ms" for value in (seconds, without))
        rows.append((name, str(layers), f"{params / MB:.1f} M", f"{seconds:.2f} s", *per_layer))
    header = ("network", "layers", "params", "converting", "per layer", "collector off")
    note = (
        "Medians of 5 runs. Aim: time that grows linearly with the number of layers. The last "
        "column is the time per layer without Python's garbage collector, which looks at more "
        "objects the larger the network is."
    )
    return Table("Growth with depth", header, tuple(rows), note)


def counting(repeats: int) -> Table:
    model = build("resnet50").eval()
    counters = {"ghostify": count_with_ghostify, "fvcore": count_with_fvcore}
    works = [partial(counter, model) for counter in counters.values()]
    times = dict(zip(counters, measure.alternating_seconds(works, repeats), strict=True))
    ratios = [theirs / ours for ours, theirs in zip(*times.values(), strict=True)]
    rows = []
    for name, counter in counters.items():
        rise, macs = measure.in_fresh_process(
            measure.peak_bytes, partial(_counted_once, name), counter
        )
        cells = f"{macs / MB:.1f} M", f"{median(times[name]) * 1e3:.0f} ms", f"{rise / MB:.1f} MB"
        rows.append((name, *cells))
    note = (
        f"Medians of {repeats} rounds, both counters in turn in one process. fvcore's time over "
        f"ghostify's, round by round: median {median(ratios):.1f}, least {min(ratios):.1f}. "
        "Aim: 10 or more. Memory: how far the resident memory of a fresh process rises in a "
        "second count, after one of a small network. ghostify's are the convolutions and the "
        "linear layer; fvcore's number holds norms and pooling too."
    )
    return Table("Counting ResNet50", ("", "MACs", "CPU time", "memory"), tuple(rows), note)


def _counted_once(counter: str) -> nn.Module:
    """ResNet50, in a process where the counter has done all that it does but once."""
    small = build("resnet18")
    count_with_ghostify(small) if counter == "ghostify" else count_with_fvcore(small)
    return build("resnet50").eval()


def conversion_memory(names: tuple[str, ...]) -> Table:
    rows = []
    for name in names:
        rise, weights = measure.in_fresh_process(
            measure.peak_bytes, partial(_converted_once, name), convert_and_weigh
        )
        cells = f"{weights / MB:.0f} MB", f"{rise / MB:.0f} MB", f"{rise / weights:.2f}"
        rows.append((name, *cells))
    header = ("network", "converted parameters", "peak extra memory", "ratio")
    note = (
        "How far the resident memory of a fresh process rises above its level before the "
        "conversion (VmHWM; all of the process is in it), after one of a small network. "
        "Aim: at most 1.10."
    )
    return Table("Memory of a conversion", header, tuple(rows), note)


def _converted_once(name: str) -> nn.Module:
    """A network, in a process where conversion has loaded what it needs."""
    convert(build("resnet20-cifar"))
    return build(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables into FILE")
    parser.add_argument("--repeats", type=int, default=9, help="runs of each measurement")
    arguments = parser.parse_args()
    measure.one_core()
    machine = measure.machine("torch", "torchvision", "fvcore")
    print(machine)
    tables = []
    for make in (
        partial(conversion_time, arguments.repeats),
        partial(growth, (56, 110, 254, 506, 1004), ((3, 4, 6, 3), (3, 8, 36, 3), (3, 16, 311, 3))),
        partial(counting, arguments.repeats),
        partial(conversion_memory, ("resnet50", "resnet152", "wide_resnet101_2", "vgg16")),
    ):
        tables.append(make())
        print(tables[-1])
    if arguments.write is not None:
        parts = [f"{machine}.", *(table.to_markdown() for table in tables)]
        write_between(arguments.write, "speed", parts)


if __name__ == "__main__":
    main()
