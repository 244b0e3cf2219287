"""Networks for detection and segmentation, and those of other packages: C-Ghost, fitted to images.

    python benchmarks/packages.py --only 'smp*'              # some of them
    python benchmarks/packages.py                            # all: more than an hour of one core
    python benchmarks/packages.py --write PAGE               # and into a page

Random weights, random images. Each network is converted with its defaults and fitted to a few
images, in a process of its own; then `ghostify.verify` looks at it, up to what needs a compiler.
Packages that are not installed are left out, and said.

Needs ``pip install -e '.[bench,ultralytics]' segmentation-models-pytorch transformers monai
efficientnet_pytorch pytorchcv``.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import operator
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import measure
import torch
from forked import in_child
from tables import Table, write_between
from torch import nn

import ghostify
from ghostify.verification import CHECKS

SECONDS, MEMORY = 600, 12 * 2**30
IMAGES = 8

Builder = Callable[[], nn.Module]


def of(module: str, name: str, /, **options: Any) -> Builder:
    """Builds what a function or class of a package makes."""
    return lambda: operator.attrgetter(name)(importlib.import_module(module))(**options)


def torchvision_detector(name: str, **options: Any) -> Builder:
    return of("torchvision.models.detection", name, weights=None, weights_backbone=None, **options)


def torchvision_segmenter(name: str) -> Builder:
    return of("torchvision.models.segmentation", name, weights=None, weights_backbone=None)


def smp(kind: str, encoder: str) -> Builder:
    return of("segmentation_models_pytorch", kind, encoder_name=encoder, encoder_weights=None)


def hugging_face(name: str, config: str, **options: Any) -> Builder:
    def build() -> nn.Module:
        package = importlib.import_module("transformers")
        return getattr(package, name)(getattr(package, config)(**options))

    return build


def monai_unet(dimensions: int) -> Builder:
    sizes = {"channels": (16, 32, 64, 128), "strides": (2, 2, 2), "num_res_units": 2}
    return of(
        "monai.networks.nets", "UNet", spatial_dims=dimensions, in_channels=1, out_channels=2,
        **sizes,
    )  # fmt: skip


def yolo(name: str) -> Builder:
    return lambda: importlib.import_module("ultralytics").YOLO(name).model


NETWORKS: dict[str, tuple[Builder, tuple[int, ...]]] = {
    "torchvision deeplabv3_resnet50": (torchvision_segmenter("deeplabv3_resnet50"), (3, 96, 96)),
    "smp Unet, resnet34": (smp("Unet", "resnet34"), (3, 96, 96)),
    "smp Unet, efficientnet-b0": (smp("Unet", "efficientnet-b0"), (3, 96, 96)),
    "smp FPN, resnet34": (smp("FPN", "resnet34"), (3, 96, 96)),
    "smp DeepLabV3Plus, resnet34": (smp("DeepLabV3Plus", "resnet34"), (3, 96, 96)),
    "smp FPN, efficientnet-b0": (smp("FPN", "efficientnet-b0"), (3, 96, 96)),
    "smp DeepLabV3Plus, efficientnet-b0": (smp("DeepLabV3Plus", "efficientnet-b0"), (3, 96, 96)),
    "transformers ResNet": (
        hugging_face(
            "ResNetForImageClassification",
            "ResNetConfig",
            layer_type="basic",
            depths=[2, 2, 2, 2],
            hidden_sizes=[64, 128, 256, 512],
        ),
        (3, 96, 96),
    ),
    "transformers ConvNeXtV2": (
        hugging_face("ConvNextV2ForImageClassification", "ConvNextV2Config"),
        (3, 96, 96),
    ),
    "transformers MobileNetV2": (
        hugging_face("MobileNetV2ForImageClassification", "MobileNetV2Config"),
        (3, 96, 96),
    ),
    "transformers DETR": (
        hugging_face("DetrForObjectDetection", "DetrConfig", use_pretrained_backbone=False),
        (3, 96, 96),
    ),
    "transformers Segformer": (
        hugging_face("SegformerForSemanticSegmentation", "SegformerConfig"),
        (3, 96, 96),
    ),
    "monai UNet, 2D": (monai_unet(2), (1, 96, 96)),
    "monai UNet, 3D": (monai_unet(3), (1, 32, 32, 32)),
    "efficientnet_pytorch b0": (
        of("efficientnet_pytorch", "EfficientNet.from_name", model_name="efficientnet-b0"),
        (3, 96, 96),
    ),
    "pytorchcv resnet18": (
        of("pytorchcv.model_provider", "get_model", name="resnet18"),
        (3, 224, 224),
    ),
    "ultralytics yolo11n": (yolo("yolo11n.yaml"), (3, 160, 160)),
    "ultralytics yolov8n": (yolo("yolov8n.yaml"), (3, 160, 160)),
    "ultralytics yolo11n-seg": (yolo("yolo11n-seg.yaml"), (3, 160, 160)),
    "torchvision retinanet_resnet50_fpn": (
        torchvision_detector("retinanet_resnet50_fpn", min_size=128, max_size=128),
        (3, 128, 128),
    ),
    "torchvision fasterrcnn_resnet50_fpn": (
        torchvision_detector("fasterrcnn_resnet50_fpn", min_size=128, max_size=128),
        (3, 128, 128),
    ),
    "torchvision ssdlite320_mobilenet_v3_large": (
        torchvision_detector("ssdlite320_mobilenet_v3_large"),
        (3, 320, 320),
    ),
}
"""How each network is built, and the size of an image."""

LISTS = frozenset(
    name for name in NETWORKS if name.startswith("torchvision") and "deeplab" not in name
)
"""Networks that take a list of images."""


def try_network(name: str) -> dict[str, Any]:
    """Convert, fit, look."""
    warnings.simplefilter("ignore")
    measure.one_core()
    torch.manual_seed(0)
    build, size = NETWORKS[name]
    try:
        network = build().eval()
    except ImportError as error:
        return {"status": f"not installed ({error.name})"}
    images = torch.rand(IMAGES, *size, generator=torch.Generator().manual_seed(0))
    given: Any = list(images) if name in LISTS else images
    inputs: tuple[Any, ...] = ([images[0]],) if name in LISTS else (images[:2],)
    made: list[nn.Module] = []
    seconds = measure.cpu_seconds(
        lambda: made.append(ghostify.convert(network, example_inputs=inputs, calibration=given))
    )
    report = ghostify.report(made[0])
    plain = list(CHECKS).index("torch.compile")  # not even begun: it takes minutes
    checks = islice(ghostify.verify(made[0], inputs, original=network), plain)
    failed = [f"{check.name} ({check.detail})" for check in checks if check.status == "failed"]
    return {
        "status": "; ".join(failed) or "passed",
        "layers": f"{len(report.replaced)} of {len(report.rows)}",
        "params": f"{report.ratios.params:.2f}",
        "macs": f"{report.ratios.macs:.2f}",
        "seconds": f"{seconds:.0f}",
    }


def rows(only: str) -> Iterator[tuple[str, ...]]:
    for name, (_, size) in NETWORKS.items():
        if not fnmatch.fnmatchcase(name, only):
            continue
        record = in_child(partial(try_network, name), SECONDS, MEMORY)
        reason = f": {record['reason'][:80]}" if "reason" in record else ""
        status = record["status"] + reason
        cells = [record.get(key, "-") for key in ("layers", "params", "macs", "seconds")]
        print(name, *cells, status, flush=True)
        yield (name, "x".join(map(str, size)), *cells, status)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="a glob pattern of names")
    parser.add_argument("--write", type=Path, help="page to put the table into")
    options = parser.parse_args()
    columns = ("network", "image", "layers", "x params", "x MACs", "CPU seconds", "checks")
    note = f"C-Ghost s = 2, fitted to {IMAGES} images. {measure.machine('torch')}."
    table = Table("Networks of other packages", columns, tuple(rows(options.only)), note)
    print(table)
    if options.write:
        write_between(options.write, "packages", [table.to_markdown()])


if __name__ == "__main__":
    main()
