"""Accuracy and time of original and converted networks in float and in int8, on CIFAR-10.

    python benchmarks/int8.py --network resnet56-cifar                         # print the table
    python benchmarks/int8.py --network vgg16-cifar --write docs/deploy.md     # into the docs too

Needs ``pip install -e '.[bench,int8]'`` and the images and weights of ``--data`` (its README says
whence). All 10,000 test images; one thread, batch 1, CPU time, a runtime's contestants in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import torch
from measure import machine, one_core
from recovery import unpack
from tables import Table, write_between
from torch import Tensor, nn

import ghostify
from ghostify.data.preparation import preparation_of
from ghostify.deploy.formats import FORMATS
from ghostify.deploy.timing import Timing, alternate, timed_by

FORMAT_NAMES = {"onnx": "ONNX Runtime", "openvino": "OpenVINO"}
CALIBRATION_IMAGES = 512


def networks(name: str, data: Path, images: Path, folder: Path) -> dict[str, nn.Module]:
    """The trained network and its warm-started conversions, kept in the folder."""
    weights = data / f"{name.removesuffix('-cifar')}-cifar10.safetensors"
    made: dict[str, nn.Module] = {"original": ghostify.build(name, None, weights).eval()}
    for s in (2, 4):
        place = folder / f"{name}-s{s}"
        if not place.is_dir():
            converted = ghostify.convert(
                made["original"], s=s, calibration=images, calibration_samples=CALIBRATION_IMAGES
            )
            ghostify.save(converted, place)
        made[f"C-Ghost s={s}"] = ghostify.load(place).eval()
    return made


def test_images(network: nn.Module, folder: Path) -> tuple[Tensor, Tensor]:
    prepare = preparation_of(network, (3, 32, 32))
    files = sorted(folder.glob("*/*.jpg"))
    classes = sorted({file.parent.name for file in files})
    labels = torch.tensor([classes.index(file.parent.name) for file in files])
    return torch.stack([prepare.read(file) for file in files]), labels


def accuracy(run: Callable[[list[Tensor]], list[Tensor]], images: Tensor, labels: Tensor) -> float:
    right = 0
    for x, y in zip(images.split(1), labels.split(1), strict=True):
        right += int((run([x])[0].argmax(1) == y).sum())
    return 100 * right / len(labels)


def rows(
    kind: str, made: dict[str, nn.Module], train: Path, test: tuple[Tensor, Tensor], folder: Path,
    seconds: float,
) -> list[tuple[str, ...]]:  # fmt: skip
    """A row for each network, in one runtime."""
    sessions = {}
    for int8 in (False, True):
        for title, network in made.items():
            path = folder / f"network{FORMATS[kind].suffix}"
            ghostify.export(
                network, path, int8=int8, calibration=train, calibration_samples=300, tolerance=9
            )
            sessions[title, int8] = FORMATS[kind].open(path, 1)
    x = test[0][:1]
    works = {f"{k}": (lambda run=run: run([x])) for k, run in sessions.items()}
    times = alternate(works, seconds=seconds, precision=0.02, timer=timed_by(time.process_time))
    found = []
    for title in made:
        cells = []
        for int8 in (False, True):
            timing = times[str((title, int8))]
            cells += [f"{accuracy(sessions[title, int8], *test):.2f}", _cell(timing)]
        found.append((f"{FORMAT_NAMES[kind]}, {title}", *cells))
        print(*found[-1], flush=True)
    return found


def _cell(timing: Timing) -> str:
    return f"{1e3 * timing.typical:.2f}, {timing.ratio:.2f} ({timing.low:.2f} to {timing.high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="resnet56-cifar")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, default=Path("int8-benchmark"), help="for files")
    parser.add_argument("--seconds", type=float, default=30.0, help="most, for each runtime")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    options = parser.parse_args()
    one_core()
    unpack(options.data / "cifar10-jpeg.tar.gz", options.folder)
    train, folder = options.folder / "train", options.folder
    made = networks(options.network, options.data, train, folder)
    test = test_images(made["original"], folder / "test")
    table = Table(
        f"{options.network} in float and int8",
        ("", "float, top-1 %", "ms, ratio", "int8, top-1 %", "ms, ratio"),
        tuple(row for kind in FORMAT_NAMES for row in rows(
            kind, made, train, test, folder, options.seconds
        )),
        "All 10,000 test images; time of one image, one thread, CPU time, as a part of the float "
        f"original's in the same runtime (95 % interval); warm-started with {CALIBRATION_IMAGES} "
        "training images, not tuned; int8 calibrated with 300. "
        f"{machine('torch', 'onnxruntime', 'openvino', 'nncf')}.",
    )  # fmt: skip
    print(table)
    if options.write:
        write_between(options.write, f"int8-{options.network}", [table.to_markdown()])


if __name__ == "__main__":
    main()
