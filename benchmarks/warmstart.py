"""Time and memory of the warm start: random weights, random images.

    python benchmarks/warmstart.py                          # the table, 64 images each
    python benchmarks/warmstart.py --write PAGE             # and into a page
    python benchmarks/warmstart.py --only resnet50 --images 256

One thread: CPU time. Each network in a process of its own. The floor is one forward pass of the
original and of the converted network over the same images.

Needs ``pip install -e '.[bench,ultralytics]' segmentation-models-pytorch``.
"""

from __future__ import annotations

import argparse
import fnmatch
from functools import partial
from pathlib import Path

import measure
import torch
from packages import smp, torchvision_segmenter, yolo
from tables import Table, write_between
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import ghostify

CASES = {
    "resnet50": (partial(ghostify.build, "resnet50"), 224),
    "yolov8n": (yolo("yolov8n.yaml"), 320),
    "Unet, resnet34": (smp("Unet", "resnet34"), 224),
    "deeplabv3_resnet50": (torchvision_segmenter("deeplabv3_resnet50"), 224),
}
"""How each network is built, and the size of an image."""


class Noise(Dataset[Tensor]):
    """Images that are drawn when they are asked for, so that none lies in memory."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.rand(3, self.size, self.size, generator=generator)


def prepared(name: str) -> nn.Module:
    torch.manual_seed(0)
    network: nn.Module = CASES[name][0]()
    return network.eval()


def convert(network: nn.Module, images: Noise) -> nn.Module:
    return ghostify.convert(
        network, s=2, keep="stem", calibration=images, calibration_samples=len(images)
    )


def peak(name: str, count: int) -> int:
    """Bytes that the conversion needs beside the network and the libraries."""
    images = Noise(count, CASES[name][1])
    return measure.peak_bytes(
        partial(prepared, name), lambda network: len(list(convert(network, images).modules()))
    )[0]


def seconds(name: str, count: int) -> tuple[float, float, int]:
    """CPU time of the conversion and of its floor, and how many layers were fitted."""
    measure.one_core()
    images, network = Noise(count, CASES[name][1]), prepared(name)
    made: list[nn.Module] = []
    whole = measure.cpu_seconds(lambda: made.append(convert(network, images)))

    @torch.no_grad()
    def floor() -> None:
        for x in DataLoader(images, batch_size=16):
            for one in (network, made[0].eval()):
                one(x)

    return whole, measure.cpu_seconds(floor), len(ghostify.report(made[0]).replaced)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="a glob pattern of names")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--write", type=Path, help="page to put the table into")
    options = parser.parse_args()
    rows = []
    for name in fnmatch.filter(CASES, options.only):
        whole, floor, layers = measure.in_fresh_process(seconds, name, options.images)
        memory = measure.in_fresh_process(peak, name, options.images)
        size = CASES[name][1]
        cells = (f"{whole:.0f} s", f"{floor:.0f} s", f"{memory / 2**30:.2f} GiB")
        rows.append((name, f"{size} x {size}", str(layers), *cells))
        print(*rows[-1], flush=True)
    columns = ("network", "image", "layers", "CPU time", "floor", "memory")
    note = f"C-Ghost s = 2, {options.images} images, closed form. {measure.machine('torch')}."
    table = Table("Time and memory of the warm start", columns, tuple(rows), note)
    print(table)
    if options.write:
        write_between(options.write, "warmstart", [table.to_markdown()])


if __name__ == "__main__":
    main()
