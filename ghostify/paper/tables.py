"""The tables of the paper as data. A further row is one more entry."""

from __future__ import annotations

from typing import Any

from ghostify.paper.rows import PaperRow, PaperTable
from ghostify.settings import CGhost, GGhost

AUTHORS = "its figures seem to be its authors' own, and this build of it counts otherwise"
LINEAR_TOO = (
    "this figure can't be had by converting convolutions alone; the next row is the nearest found"
)


def _vgg(label: str, params: str, macs: str, s: int = 2, d: int = 3) -> PaperRow:
    return PaperRow(label, "vgg16-cifar", params, macs, settings=CGhost(s=s, d=d, costlier=True))


def _resnet56(label: str, params: str, macs: str, reason: str = "", **changes: Any) -> PaperRow:
    settings = GGhost.preset("cifar", **changes)
    return PaperRow(label, "resnet56-cifar", params, macs, settings=settings, reason=reason)


def _regnet(
    label: str, model: str, params: str, macs: str, acts: str, reason: str = "", **changes: Any
) -> PaperRow:
    settings = GGhost.preset("regnet", **changes)
    return PaperRow(label, f"timm/{model}", params, macs, acts, settings, reason=reason)


def _resnet50(label: str, s: int, params: str, macs: str, reason: str, linear: bool) -> PaperRow:
    settings = CGhost(s=s, d=3, keep="stem", linear=linear)
    return PaperRow(label, "resnet50", params, macs, settings=settings, reason=reason)


VGG16 = PaperRow("VGG16", "vgg16-cifar", "15.0", "313")
RESNET56 = PaperRow("ResNet56", "resnet56-cifar", "0.85", "125")
REGNET_32 = PaperRow("RegNetX-3.2GF", "timm/regnetx_032", "15.3", "3.2", "11.4")
GHOST_32 = _regnet("GhostX-RegNetX-3.2GF", "regnetx_032", "10.5", "1.8", "8.7")

TABLES: tuple[PaperTable, ...] = (
    PaperTable(
        4,
        "C-Ghost-VGG16 with different d, CIFAR-10",
        (
            VGG16,
            _vgg("d=1", "7.6", "157", d=1),
            _vgg("d=3", "7.7", "158", d=3),
            _vgg("d=5", "7.7", "160", d=5),
            _vgg("d=7", "7.7", "163", d=7),
        ),
        convolutions=True,
    ),
    PaperTable(
        5,
        "C-Ghost-VGG16 with different s, CIFAR-10",
        (
            VGG16,
            _vgg("s=2", "7.7", "158", s=2),
            _vgg("s=3", "5.2", "107", s=3),
            _vgg("s=4", "4.0", "80", s=4),
            _vgg("s=5", "3.3", "65", s=5),
        ),
        convolutions=True,
    ),
    PaperTable(
        6,
        "VGG16 and ResNet56, CIFAR-10",
        (
            PaperRow("VGG16", "vgg16-cifar", "15", "313"),
            PaperRow("C-Ghost (s=2)", "vgg16-cifar", "7.7", "158", settings=CGhost(s=2, d=3)),
            RESNET56,
            PaperRow(
                "C-Ghost (s=2)", "resnet56-cifar", "0.43", "63", settings=CGhost(s=2, d=3),
                reason="the text says d=3, but the figures are those of d=1: see the next row",
            ),
            PaperRow(
                "C-Ghost (s=2) [d=1]", "resnet56-cifar", "0.43", "63", settings=CGhost(s=2, d=1)
            ),
        ),
        convolutions=True,
        left_out="other authors' methods",
    ),
    PaperTable(
        7,
        "ResNet50, ImageNet",
        (
            PaperRow("ResNet50", "resnet50", "25.6", "4.1"),
            _resnet50("C-Ghost (s=2)", 2, "13.0", "2.2", LINEAR_TOO, linear=False),
            _resnet50(
                "C-Ghost (s=2) [fc converted too]", 2, "13.0", "2.2",
                "the nearest to 13.0 that was found: the stem kept, the fc a 1x1 ghost module",
                linear=True,
            ),
            _resnet50("C-Ghost (s=4)", 4, "6.5", "1.2", LINEAR_TOO, linear=False),
            _resnet50(
                "C-Ghost (s=4) [fc converted too]", 4, "6.5", "1.2",
                "the nearest to 6.5 that was found, likewise", linear=True,
            ),
        ),
        macs_unit="B",
        left_out="other authors' methods",
    ),
    PaperTable(
        8,
        "Small networks, ImageNet",
        (
            PaperRow("MobileNetV2 0.35x", "timm/mobilenetv2_035", "1.7", "59"),
            PaperRow(
                "ShuffleNetV2 0.5x", "shufflenet_v2_x0_5", "1.4", "41", reason=AUTHORS
            ),
            PaperRow("C-GhostNet 0.5x", "c-ghostnet-0.5x", "2.6", "42"),
            PaperRow(
                "MobileNetV2 0.75x (192x192)", "timm/mobilenetv2_075", "2.6", "153",
                input_size=(3, 192, 192),
            ),
            PaperRow(
                "ShuffleNetV2 1.0x", "shufflenet_v2_x1_0", "2.3", "146", reason=AUTHORS
            ),
            PaperRow("MobileNetV3 Large 0.75x", "timm/mobilenetv3_large_075", "4.0", "155"),
            PaperRow("C-GhostNet 1.0x", "c-ghostnet", "5.2", "141"),
            PaperRow("MobileNetV2 1.0x", "mobilenet_v2", "3.5", "300"),
            PaperRow(
                "ShuffleNetV2 1.5x", "shufflenet_v2_x1_5", "3.5", "299", reason=AUTHORS
            ),
            PaperRow("MnasNet-A1", "timm/semnasnet_100", "3.9", "312"),
            PaperRow(
                "MobileNetV3 Large 1.0x", "mobilenet_v3_large", "5.4", "219", reason=AUTHORS
            ),
            PaperRow(
                "C-GhostNet 1.3x", "c-ghostnet-1.3x", "7.3", "226",
                reason="the structure of Table 1 at width 1.3, with channels in multiples of 4, "
                "has 227.0; that of 0.5 and 1.0 agrees",
            ),
        ),
        left_out="networks that neither torchvision nor timm has",
    ),
    PaperTable(
        11,
        "G-Ghost-ResNet56, CIFAR-10",
        (
            PaperRow(
                "ResNet56", "resnet56-cifar", "0.85", "125.0",
                reason="125.49 is Table 6's 125; 125.0 has a digit too many",
            ),
            _resnet56("G-Ghost w/o mix", "0.36", "53.7", mix="none"),
            _resnet56(
                "G-Ghost w/ mix", "0.37", "53.8",
                "53.83 with the 0.10 M additions of the mix's pooling, which are no MACs",
            ),
        ),
        convolutions=True,
        left_out="ResNet56-0.7x",
    ),
    PaperTable(
        13,
        "G-Ghost-ResNet56 with and without cheap operations, CIFAR-10",
        (
            _resnet56("Identity", "0.36", "53.3", mix="none", cheap="identity"),
            _resnet56("No", "0.41", "60.8", mix="none", cheap="none"),
            _resnet56("1x1 Conv", "0.36", "53.7", mix="none"),
        ),
        convolutions=True,
    ),
    PaperTable(
        14,
        "G-Ghost-ResNet56 with different cheap operations, CIFAR-10",
        (
            _resnet56("1x1 Conv", "0.36", "53.7", mix="none"),
            _resnet56("3x3 Conv", "0.38", "56.9", mix="none", cheap=3),
            _resnet56("5x5 Conv", "0.43", "63.2", mix="none", cheap=5),
        ),
        convolutions=True,
    ),
    PaperTable(
        15,
        "G-Ghost-ResNet34, ImageNet",
        (
            PaperRow("ResNet34", "resnet34", "21.8", "3.7", "3.7"),
            PaperRow(
                "G-Ghost w/o mix", "resnet34", "14.3", "2.3", "3.3",
                settings=GGhost.preset("resnet", mix="none"),
            ),
            PaperRow(
                "G-Ghost w/ mix", "resnet34", "14.6", "2.3", "3.3",
                settings=GGhost.preset("resnet"),
            ),
        ),
        macs_unit="B",
        left_out="ResNet34-0.8x",
    ),
    PaperTable(
        17,
        "G-Ghost-RegNetX-3.2GF, ImageNet",
        (
            REGNET_32,
            _regnet("G-Ghost w/o mix", "regnetx_032", "9.7", "1.8", "8.7", mix="none"),
            _regnet("G-Ghost w/ mix", "regnetx_032", "10.5", "1.8", "8.7"),
        ),
        macs_unit="B",
        left_out="RegNetX-3.2GF-0.75x",
    ),
    PaperTable(
        18,
        "GhostX-RegNet beside other networks, ImageNet",
        (
            PaperRow("ResNet-50", "resnet50", "25.6", "4.1", "11.1"),
            PaperRow(
                "ResNet-101", "resnet101", "44.6", "7.8", "16.2", reason="44.55 rounds to 44.5"
            ),
            PaperRow("ResNet-152", "resnet152", "60.2", "11.5", "22.6"),
            PaperRow("Densenet-121", "densenet121", "8.0", "2.8", "6.9"),
            PaperRow(
                "Densenet-169", "densenet169", "14.2", "3.4", "7.3", reason="14.15 rounds to 14.1"
            ),
            PaperRow("Densenet-201", "densenet201", "20.0", "4.3", "7.9"),
            PaperRow("Densenet-161", "densenet161", "28.7", "7.7", "11.1"),
            PaperRow(
                "ResNeXt-50-32x4d", "resnext50_32x4d", "25.0", "4.0", "14.4", reason=AUTHORS
            ),
            PaperRow(
                "ResNeXt-101-32x4d", "timm/resnext101_32x4d", "42.3", "8.0", "21.2",
                reason=AUTHORS,
            ),
            PaperRow(
                "InceptionV3", "inception_v3", "26.0", "5.7", "4.6", input_size=(3, 299, 299),
                reason="27.2 M with the auxiliary head, 23.8 M without; 5.7 B is of images of "
                "299x299, but 4.6 M activations of 224x224",
            ),
            PaperRow(
                "EfficientNet-B3", "timm/efficientnet_b3", "12.0", "1.8", "23.8",
                input_size=(3, 300, 300), reason="the paper prints whole millions: 12",
            ),
            PaperRow(
                "EfficientNet-B4", "timm/efficientnet_b4", "19.0", "4.2", "48.5",
                input_size=(3, 380, 380), reason=AUTHORS,
            ),
            PaperRow(
                "EfficientNet-B5", "timm/efficientnet_b5", "30.0", "9.9", "98.9",
                input_size=(3, 456, 456), reason=AUTHORS,
            ),
            PaperRow("RegNetX-1.6GF", "timm/regnetx_016", "9.2", "1.6", "7.9"),
            REGNET_32,
            PaperRow("RegNetX-4.0GF", "timm/regnetx_040", "22.1", "4.0", "12.2"),
            PaperRow("RegNetX-8.0GF", "timm/regnetx_080", "39.6", "8.0", "14.1"),
            PaperRow("RegNetX-16GF", "timm/regnetx_160", "54.3", "15.9", "25.5"),
            GHOST_32,
            _regnet("GhostX-RegNetX-4.0GF", "regnetx_040", "15.7", "2.2", "9.5"),
            _regnet(
                "GhostX-RegNetX-8.0GF", "regnetx_080", "24.6", "4.2", "10.4",
                reason="4.15 rounds to 4.1; parameters and activations agree",
            ),
            _regnet("GhostX-RegNetX-16GF", "regnetx_160", "32.4", "9.0", "19.5"),
        ),
        macs_unit="B",
    ),
)  # fmt: skip
"""The tables that are about costs; the others are about accuracy or other authors' work."""
