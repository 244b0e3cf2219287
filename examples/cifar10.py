"""From a trained network to a cheaper one: converted, fitted, trained, checked, saved, loaded.

    python examples/cifar10.py                       # ResNet-20, half a minute
    python examples/cifar10.py --network resnet56-cifar --steps 1000 --images 10000

Trained weights and CIFAR-10 images are taken from the folder that GHOSTIFY_DATA names, else from
``shared/data`` beside the repository: ``resnet20-cifar10.safetensors``, ``cifar10-jpeg.tar.gz``.
Without them the example runs with random weights on random images, and says so.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import ghostify
from ghostify.documents import amount

Images = tuple[Tensor, Tensor]
"""Images ``(N, 3, 32, 32)`` from 0 to 1, and their classes ``(N,)``."""

RATE = 0.05

REPOSITORY = Path(__file__).resolve().parents[1]


def data_folder() -> Path:
    """Where the weights and images should be."""
    named = os.environ.get("GHOSTIFY_DATA")
    return Path(named) if named else REPOSITORY.parent / "shared" / "data"


def read_images(archive: Path, split: str, count: int) -> Images:
    """The first images of each class, ``count`` in all."""
    from torchvision.transforms.functional import pil_to_tensor

    images, labels, classes = [], [], dict[str, int]()
    with tarfile.open(archive) as tar:
        members = sorted(
            (m for m in tar if m.name.endswith(".jpg") and f"{split}/" in m.name),
            key=lambda member: (Path(member.name).name, member.name),
        )
        for name in sorted({Path(member.name).parent.name for member in members}):
            classes[name] = len(classes)
        # In the archive's own order: it is compressed, and going back means to unpack it again.
        for member in sorted(members[:count], key=lambda member: member.offset):
            stream = tar.extractfile(member)
            assert stream is not None
            images.append(pil_to_tensor(Image.open(stream).convert("RGB")))
            labels.append(classes[Path(member.name).parent.name])
    return torch.stack(images).float() / 255, torch.tensor(labels)


def some(images: Tensor, count: int) -> Tensor:
    """So many images from all over: they come class by class."""
    return images[:: max(1, len(images) // count)][:count]


def ready(network: nn.Module, images: Tensor) -> Tensor:
    """Images normalised as the network's configuration says."""
    mean, std = (torch.tensor(network.default_cfg[k]).view(3, 1, 1) for k in ("mean", "std"))
    return (images - mean) / std


def scores(network: nn.Module, images: Tensor) -> Tensor:
    """Class scores of images from 0 to 1."""
    return network(ready(network, images))


@torch.no_grad()
def accuracy(network: nn.Module, test: Images) -> float:
    """Top-1 accuracy in percent."""
    network.eval()
    batches = zip(*(tensor.split(100) for tensor in test), strict=True)
    hits = sum((scores(network, x).argmax(1) == wanted).sum().item() for x, wanted in batches)
    return 100 * hits / len(test[0])


def train(network: nn.Module, data: Images, steps: int, batch: int = 64) -> None:
    """A plain training loop: a converted network is a network like any other."""
    optimizer = torch.optim.SGD(network.parameters(), lr=RATE, momentum=0.9, nesterov=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    network.train()
    for _ in range(steps):
        chosen = torch.randint(len(data[0]), (batch,), generator=generator)
        loss = F.cross_entropy(scores(network, data[0][chosen]), data[1][chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def prepare(
    name: str, training: int, testing: int, **stand_in: object
) -> tuple[nn.Module, Images, Images]:
    """The network, training and test images: real where the data are there, else random.

    ``stand_in`` are arguments of the network with random weights: it may be smaller.
    """
    folder = data_folder()
    weights = folder / f"{name.removesuffix('-cifar')}-cifar10.safetensors"
    archive = folder / "cifar10-jpeg.tar.gz"
    missing = [file.name for file in (weights, archive) if not file.is_file()]
    if not missing:
        network = ghostify.build(name, weights=weights)
        return (
            network,
            read_images(archive, "train", training),
            read_images(archive, "test", testing),
        )
    print(f"not found: {', '.join(missing)}; set GHOSTIFY_DATA to their folder.")
    print("Going on with random weights and images: accuracies mean nothing, all else holds.\n")
    network = ghostify.build(name, stand_in)
    train_set, test_set = (
        (torch.rand(count, 3, 32, 32), torch.randint(10, (count,))) for count in (training, testing)
    )
    return network, train_set, test_set


def show(name: str, network: nn.Module, test: Images) -> None:
    """A line of the table."""
    report = ghostify.report(network)
    saved = f"{amount(report.after.params):>8}{amount(report.after.macs):>8}"
    print(f"{name:22}{saved}{report.ratios.macs:8.2f}{accuracy(network, test):8.1f} %")


def main() -> None:
    """Convert, fit, train, check, save, load, evaluating all the while."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="resnet20-cifar", help="resnet20-cifar, ...")
    parser.add_argument("--images", type=int, default=500, help="test images")
    parser.add_argument("--training", type=int, default=5000, help="training images")
    parser.add_argument("--steps", type=int, default=150, help="training steps")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    original, training, test = prepare(arguments.network, arguments.training, arguments.images)

    print(f"{'':22}{'params':>8}{'MACs':>8}{'x MACs':>8}{'top-1':>10}")
    show("original", original, test)
    show("converted alone", ghostify.convert(original, s=2), test)
    unlabelled = ready(original, some(training[0], 512))
    converted = ghostify.convert(original, s=2, calibration=unlabelled)
    show("fitted, no labels", converted, test)
    train(converted, training, arguments.steps)
    show(f"after {arguments.steps} steps", converted, test)

    print()
    for verdict in ghostify.check(ghostify.report(converted), ghostify.Bounds(min_macs_ratio=1.9)):
        print(f"{'met' if verdict.met else 'missed'}: {verdict}")
    with tempfile.TemporaryDirectory() as folder:
        ghostify.save(converted, folder)
        loaded = ghostify.load(folder)
    images = test[0][:8]
    same = torch.equal(scores(loaded.eval(), images), scores(converted.eval(), images))
    print(f"saved and loaded; outputs equal, bit for bit: {same}")


if __name__ == "__main__":
    main()
