"""The measured time of converted networks beside their originals, each in its inference form.

    python benchmarks/latency.py                                  # batch 1, one thread
    python benchmarks/latency.py --batch 1 16 --threads 1 2 --write docs/deploy.md
    python benchmarks/latency.py --only 'ResNet-34*' --runtimes eager

In the same run, in alternation: Torch-Pruning's network of as many MACs (magnitudes, widths in
multiples of 8), and the floor of C-Ghost: its primary convolutions and the concat alone, which
computes nothing of use. One thread: CPU time; more: wall time. All of it takes hours of an idle
machine, of which building and exporting the networks is about half.

Needs ``pip install -e '.[bench,openvino]'``.
"""

from __future__ import annotations

import argparse
import copy
import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from measure import machine
from peers import prune_evenly
from tables import Table, write_between
from torch import Tensor, nn

import ghostify
from ghostify.deploy.clock.forms import as_fitted
from ghostify.deploy.ghosts import FusedGhost
from ghostify.nn.swap import replace_modules

SIZE = (3, 224, 224)


@dataclass(frozen=True)
class Case:
    """An original, and what is compared with it.

    Attributes:
        original: Its name.
        options: Of its conversion.
        other: The name of a network that is compared in place of a conversion.
    """

    original: str
    options: dict[str, Any] = field(default_factory=dict)
    other: str = ""

    def networks(self) -> tuple[nn.Module, dict[str, nn.Module]]:
        """The original, and those that are compared with it."""
        original = ghostify.build(self.original).eval()
        if self.other:
            return original, {"ghostify": ghostify.build(self.other).eval()}
        converted = ghostify.convert(original, **self.options).eval()
        macs = ghostify.count(converted, input_size=SIZE).total.macs
        found = {"ghostify": converted, "Torch-Pruning": prune_evenly(original, macs, SIZE)}
        if "mode" in self.options:
            return original, found
        fitted = as_fitted(ghostify.convert(original, **self.options).eval())
        return original, {**found, "ghostify, warm": fitted, "floor": floor(converted)}


CASES = {
    "ResNet-50 s=2": Case("resnet50", {"s": 2}),
    "ResNet-50 s=4": Case("resnet50", {"s": 4}),
    "ResNet-34 s=2": Case("resnet34", {"s": 2}),
    "ResNet-34 s=4": Case("resnet34", {"s": 4}),
    "ResNet-34 G-Ghost 0.5": Case("resnet34", {"mode": "g-ghost", "ratio": 0.5}),
    "RegNetX-3.2GF G-Ghost 0.5": Case("regnet_x_3_2gf", {"mode": "g-ghost", "ratio": 0.5}),
    "C-GhostNet 1.0 / timm's": Case("timm/ghostnet_100", other="c-ghostnet"),
}
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "eager": "eager"}


class PrimaryAlone(nn.Module):
    """A ghost module without its cheap operation: the intrinsic maps in place of the ghosts."""

    def __init__(self, ghost: FusedGhost) -> None:
        super().__init__()
        self.primary, self.gives = ghost.primary, ghost.gives

    def forward(self, x: Tensor) -> Tensor:
        """As many maps as the ghost module makes."""
        intrinsic = self.primary(x)
        return torch.cat([intrinsic, *(intrinsic[:, :gives] for gives in self.gives)], dim=1)


def floor(converted: nn.Module) -> nn.Module:
    """Halved convolutions and the concat alone."""
    network = ghostify.fuse(copy.deepcopy(converted), addition=None)
    ghosts = [module for module in network.modules() if isinstance(module, FusedGhost)]
    replace_modules(network, {ghost: PrimaryAlone(ghost) for ghost in ghosts})
    return network


def rows(
    cases: Sequence[str], runtimes: Sequence[str], batch: int, threads: int, seconds: float
) -> Iterator[tuple[str, ...]]:
    for title in cases:
        original, others = CASES[title].networks()
        before = ghostify.count(original, input_size=SIZE).total.macs
        columns: dict[str, list[str]] = {name: [] for name in others}
        for runtime in runtimes:
            found = ghostify.benchmark(
                original, *others.values(), runtime=runtime, batch=batch, threads=threads,
                seconds=seconds, input_size=SIZE,
            )  # fmt: skip
            for name, row in zip(others, found.rows[1:], strict=True):
                columns[name].append(f"{row.ratio:.2f} ({row.low:.2f} to {row.high:.2f})")
        for name, network in others.items():
            macs = ghostify.count(network, input_size=SIZE).total.macs / before
            row = (title, name, f"{macs:.2f}", *columns[name])
            print(*row, sep="  ", flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="a glob pattern of cases")
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=RUNTIMES)
    parser.add_argument("--seconds", type=float, default=10.0, help="most, in each runtime")
    parser.add_argument("--batch", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--write", type=Path, help="page to put the tables into")
    options = parser.parse_args()
    torch.manual_seed(0)
    cases = fnmatch.filter(CASES, options.only)
    columns = ("network", "form", "MACs", *(RUNTIMES[name] for name in options.runtimes))
    note = (
        "Time as a part of the original's in the same runtime (95 % interval), random weights, "
        f"224 x 224 pixels. {machine('torch', 'onnxruntime', 'openvino', says_threads=False)}."
    )
    tables = []
    for batch in options.batch:
        for threads in options.threads:
            title = f"Time / the original's, batch {batch}, threads {threads}"
            found = rows(cases, options.runtimes, batch, threads, options.seconds)
            tables.append(Table(title, columns, tuple(found), note))
            print(tables[-1])
    if options.write:
        write_between(options.write, "latency", [table.to_markdown() for table in tables])


if __name__ == "__main__":
    main()
