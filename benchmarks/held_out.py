"""What trained networks keep by the closed form, with few calibration images and with many.

    python benchmarks/held_out.py                              # about two minutes on one core
    python benchmarks/held_out.py --write docs/warmstart.md    # and put the table into the docs

Top-1 on all 10,000 CIFAR-10 test images of C-Ghost s = 2. Needs ``pip install -e '.[bench]'``.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

from measure import machine
from recovery import unpack
from tables import Table, write_between
from torch import nn

import ghostify


def accuracy(network: nn.Module, test: Path) -> str:
    return f"{ghostify.evaluate(network, test).top1.percent:.2f}"


def rows(options: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    unpack(options.data / "cifar10-jpeg.tar.gz", options.folder)
    train, test = options.folder / "train", options.folder / "test"
    for name in options.networks:
        weights = options.data / f"{name.removesuffix('-cifar')}-cifar10.safetensors"
        network = ghostify.build(name, weights=weights).eval()
        fixed = accuracy(network, test), accuracy(ghostify.convert(network, s=2), test)
        for count in options.images:
            start = time.process_time()
            warm = ghostify.convert(network, s=2, calibration=train, calibration_samples=count)
            seconds = time.process_time() - start
            row = (name, str(count), *fixed, accuracy(warm, test), f"{seconds:.0f} s")
            print(*row, flush=True)
            yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("cifar10"), help="unpacked here")
    parser.add_argument("--networks", nargs="+", default=["resnet20-cifar"])
    parser.add_argument("--images", nargs="+", type=int, default=[4, 16, 64, 512])
    parser.add_argument("--write", type=Path, help="page to put the table into")
    options = parser.parse_args()
    columns = ("network", "images", "original", "cold start", "fitted", "CPU time of the fit")
    note = f"Top-1 in percent. One thread. {machine('torch')}."
    table = Table("Few calibration images", columns, tuple(rows(options)), note)
    print(table)
    if options.write:
        write_between(options.write, "held-out", [table.to_markdown()])


if __name__ == "__main__":
    main()
