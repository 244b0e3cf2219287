"""Time and memory of the warm start of a ResNet-50: random weights, random images at 224 x 224.

python benchmarks/warmstart.py --images 256
"""

from __future__ import annotations

import argparse
import resource
import time

import torch
from torch import Tensor
from torch.utils.data import Dataset

import ghostify


class Noise(Dataset[Tensor]):
    """Images that are drawn when they are asked for, so that none lies in memory."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randn(3, self.size, self.size, generator=generator)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    network = ghostify.build(options.model)
    start, busy = time.perf_counter(), time.process_time()
    ghostify.convert(
        network, s=2, keep="stem", calibration=Noise(options.images, options.size),
        calibration_samples=options.images,
    )  # fmt: skip
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{options.model}, {options.images} images of {options.size} x {options.size}: "
        f"{time.perf_counter() - start:.0f} s ({time.process_time() - busy:.0f} s of CPU time, "
        f"{torch.get_num_threads()} threads), peak {peak:.2f} GiB of memory"
    )


if __name__ == "__main__":
    main()
