"""The measured time of converted networks beside their originals, each in its inference form.

    python benchmarks/latency.py                        # print the table (about ten minutes)
    python benchmarks/latency.py --write docs/deploy.md # and put it into the docs

Needs ``pip install -e '.[bench,openvino]'``. One thread: CPU time.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from measure import machine
from tables import Table, write_between

import ghostify

CASES = {
    "ResNet-50 s=2": ("resnet50", {"s": 2}),
    "ResNet-50 s=4": ("resnet50", {"s": 4}),
    "ResNet-34 s=2": ("resnet34", {"s": 2}),
    "ResNet-34 s=4": ("resnet34", {"s": 4}),
    "ResNet-34 G-Ghost 0.5": ("resnet34", {"mode": "g-ghost", "ratio": 0.5}),
    "RegNetX-3.2GF G-Ghost 0.5": ("regnet_x_3_2gf", {"mode": "g-ghost", "ratio": 0.5}),
}
RUNTIMES = ("onnxruntime", "openvino", "eager")


def rows(seconds: float, batch: int) -> Iterator[tuple[str, ...]]:
    for title, (name, options) in CASES.items():
        original = ghostify.build(name).eval()
        converted = ghostify.convert(original, **options)
        found = ghostify.benchmark(
            original, converted, runtime=RUNTIMES, batch=batch, seconds=seconds
        )
        cells = [f"{r.ratio:.2f} ({r.low:.2f} to {r.high:.2f})" for r in found.rows[1::2]]
        macs = 1 / ghostify.report(converted).ratios.macs
        print(title, f"{macs:.2f}", *cells, flush=True)
        yield (title, f"{macs:.2f}", *cells)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=15.0, help="most, for each ratio")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    options = parser.parse_args()
    note = (
        "Time of the converted network as a part of the original's in the same runtime (95 % "
        "interval), random weights, 224 x 224 pixels, one thread, CPU time. "
        f"{machine('torch', 'onnxruntime', 'openvino')}."
    )
    table = Table(
        f"Converted / original, batch {options.batch}",
        ("network", "MACs", "ONNX Runtime", "OpenVINO", "eager"),
        tuple(rows(options.seconds, options.batch)),
        note,
    )
    print(table)
    if options.write:
        write_between(options.write, "latency", [table.to_markdown()])


if __name__ == "__main__":
    main()
