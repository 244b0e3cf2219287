"""What a converted network keeps without labels: top-1 after each step of the warm start.

    python benchmarks/warmstart.py --network 56 --s 2 --images 512 --minutes 20
    python benchmarks/warmstart.py --table docs/warmstart.md

The first form measures one row and adds it to a file of rows (JSON lines); the second writes the
table from that file between the markers of a Markdown page.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import ghostify

START, END = "<!-- warmstart:start -->", "<!-- warmstart:end -->"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def load(archive: Path, part: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Some images of a part, drawn at random, and their labels."""
    with tarfile.open(archive) as tar:
        files = {m.name: m for m in tar if m.isfile() and m.name.startswith(f"{part}/")}
        names = sorted(files)
        classes = sorted({name.split("/")[1] for name in names})
        chosen = sorted(random.Random(seed).sample(names, count))
        arrays = []
        for name in chosen:
            stream = tar.extractfile(files[name])
            assert stream is not None
            arrays.append(np.asarray(Image.open(io.BytesIO(stream.read())).convert("RGB")))
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, STD))
    labels = [classes.index(name.split("/")[1]) for name in chosen]
    return (pixels - mean) / std, torch.tensor(labels)


@torch.no_grad()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    model.eval()
    hits = sum(
        int((model(x).argmax(1) == y).sum())
        for x, y in zip(images.split(250), labels.split(250), strict=True)
    )
    return 100 * hits / len(labels)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    archive = options.data / "cifar10-jpeg.tar.gz"
    test = load(archive, "test", options.test, seed=0)
    images, _ = load(archive, "train", options.images, options.seed)
    name = f"resnet{options.network}-cifar"
    weights = options.data / f"resnet{options.network}-cifar10.safetensors"
    network = ghostify.build(name, weights=weights).eval()
    row: dict[str, Any] = {
        "network": name, "s": options.s, "d": options.d, "seed": options.seed,
        "images": options.images, "test": options.test, "minutes": options.minutes,
        "original": top1(network, *test),
    }  # fmt: skip
    steps: dict[str, dict[str, Any]] = {
        "converted": {},
        "data-free": {"calibration": "data-free"},
        "warm": {"calibration": images},
        "reconstructed": {"calibration": images, "reconstruct_minutes": options.minutes},
    }
    for step, more in steps.items():
        if "calibration" in more:
            more["calibration_seed"] = options.seed
        if more.get("calibration") is images:
            more["calibration_samples"] = options.images
        start = time.perf_counter()
        made = ghostify.convert(network, s=options.s, d=options.d, **more)
        seconds = time.perf_counter() - start
        report = ghostify.report(made)
        row[step] = top1(made, *test)
        row[f"{step} seconds"] = round(seconds, 1)
        row["notes"] = [note for note in report.notes if "steps" in note]
        row["macs"], row["params"] = report.after.macs, report.after.params
        row["macs before"], row["params before"] = report.before.macs, report.before.params
        print(step, f"{row[step]:.2f} %", f"{seconds:.0f} s", *row["notes"], flush=True)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    titles = [
        "network", "s", "MACs (fewer)", "params", "original", "converted", "data-free",
        "warm start", "reconstructed", "images", "seed", "warm start, s", "all, s", "tested on",
    ]  # fmt: skip
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        macs = f"{row['macs'] / 1e6:.1f} M ({row['macs before'] / row['macs']:.2f}x)"
        cells = [
            row["network"], row["s"], macs, f"{row['params'] / 1e6:.3f} M",
            *(f"{row[k]:.2f}" for k in ("original", "converted", "data-free", "warm")),
            f"{row['reconstructed']:.2f}", row["images"], row["seed"],
            f"{row['warm seconds']:.0f}", f"{row['reconstructed seconds']:.0f}", row["test"],
        ]  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--network", type=int, choices=(20, 56), default=20)
    parser.add_argument("--s", type=int, default=2)
    parser.add_argument("--d", type=int, default=3)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--test", type=int, default=10_000)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, default=Path("benchmarks/warmstart.jsonl"))
    parser.add_argument("--table", type=Path)
    options = parser.parse_args()
    if options.table is None:
        row = measure(options)
        with options.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        return
    rows = [json.loads(line) for line in options.rows.read_text().splitlines()]
    page = options.table.read_text()
    before, rest = page.split(START)
    options.table.write_text(f"{before}{START}\n{table(rows)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
