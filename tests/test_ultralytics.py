"""Ultralytics' networks are converted; what its `YOLO` does with a network, it does as before."""

from __future__ import annotations

import copy
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import ghostify
from ghostify.nn import GhostLayer

for name, value in {
    "YOLO_CONFIG_DIR": tempfile.gettempdir(), "YOLO_AUTOINSTALL": "false",
    "YOLO_OFFLINE": "true", "YOLO_VERBOSE": "false",
}.items():  # fmt: skip
    os.environ.setdefault(name, value)  # nothing is fetched, and the home folder stays as it is
YOLO = pytest.importorskip("ultralytics", exc_type=ImportError).YOLO
get_cfg = pytest.importorskip("ultralytics.cfg").get_cfg
build_yolo_dataset = pytest.importorskip("ultralytics.data").build_yolo_dataset
check_det_dataset = pytest.importorskip("ultralytics.data.utils").check_det_dataset

SIZE = 64
NETWORKS = (
    "yolo11n.yaml", "yolov8n.yaml", "yolo11n-seg.yaml", "yolov8n-seg.yaml", "yolo11n-cls.yaml",
    "yolov8n-cls.yaml",
)  # fmt: skip


def ghosts_of(network: nn.Module) -> list[str]:
    return [n for n, m in network.named_modules() if isinstance(m, GhostLayer)]


def settled(network: nn.Module) -> nn.Module:
    """The network, its norms with the statistics of what flows, as a trained one has them."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        network.train()(torch.rand(8, 3, SIZE, SIZE, generator=generator))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network


@pytest.fixture
def yolo() -> Callable[[str], Any]:
    """Builds a `YOLO` whose network is converted."""

    def make(name: str) -> Any:
        torch.manual_seed(0)
        model = YOLO(name)
        model.model = ghostify.convert(settled(model.model), s=2, input_size=(3, SIZE, SIZE))
        return model

    return make


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Data sets of images with one rectangle each, for each task: what ``data=`` takes."""
    chance = np.random.default_rng(0)
    found = {}
    for task in ("detect", "segment", "classify"):
        folder = found[task] = tmp_path_factory.mktemp(task)
        for number in range(12):
            split, label = ("train" if number < 8 else "val"), number % 2
            pixels = chance.integers(0, 120, (SIZE, SIZE, 3), dtype=np.uint8)
            left, top = chance.integers(0, 30, 2)
            right, bottom = np.array([left, top]) + chance.integers(16, 30, 2)
            pixels[top:bottom, left:right, label] = 255
            place = folder / split / f"class{label}" if task == "classify" else (
                folder / "images" / split
            )  # fmt: skip
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
            a, b, c, d = (side / SIZE for side in (left, top, right, bottom))
            box, outline = [(a + c) / 2, (b + d) / 2, c - a, d - b], [a, b, c, b, c, d, a, d]
            if task != "classify":
                text = " ".join(map(str, [label, *(box if task == "detect" else outline)]))
                labels = folder / "labels" / split
                labels.mkdir(parents=True, exist_ok=True)
                (labels / f"{number}.txt").write_text(text)
        if task != "classify":
            found[task] = folder / "data.yaml"
            found[task].write_text(
                f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [red, green]\n"
            )
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_a_converted_network_costs_less_and_gives_what_the_original_gives(yolo, name):
    model, original = yolo(name), YOLO(name).model
    report = ghostify.report(model.model)
    assert len(ghosts_of(model.model)) > 20 and report.ratios.macs > 1.7
    assert type(model.model) is type(original) and model.model.yaml == original.yaml
    image = torch.rand(1, 3, SIZE, SIZE)

    def shapes(network: nn.Module) -> list[torch.Size]:
        leaves = torch.utils._pytree.tree_leaves(network.eval()(image))
        return [leaf.shape for leaf in leaves if isinstance(leaf, Tensor)]

    assert shapes(model.model) == shapes(original)


@pytest.mark.parametrize("name", NETWORKS)
def test_ultralytics_saves_and_loads_it(yolo, name, tmp_path):
    model = yolo(name)
    model.save(tmp_path / "converted.pt")  # in half precision
    loaded = YOLO(tmp_path / "converted.pt").model
    assert ghosts_of(loaded) == ghosts_of(model.model)
    for key, value in model.model.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value.half().to(value.dtype)), key


@pytest.mark.parametrize("name", NETWORKS)
def test_ghostify_saves_and_loads_it(yolo, name, tmp_path):
    model = yolo(name).model
    ghostify.save(model, tmp_path / "saved")
    loaded = ghostify.load(tmp_path / "saved", YOLO(name).model)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in model.state_dict().items())


def output(network: nn.Module, image: Tensor) -> Tensor:
    """The first tensor that a network gives."""
    with torch.no_grad():
        leaves = torch.utils._pytree.tree_leaves(network.eval()(image))
    return next(leaf for leaf in leaves if isinstance(leaf, Tensor))


@pytest.mark.parametrize("name", NETWORKS)
def test_fused_it_gives_the_same(yolo, name):
    model, image = yolo(name).model, torch.rand(2, 3, SIZE, SIZE)
    wanted, count = output(model, image), len(ghosts_of(model))
    fused = copy.deepcopy(model).fuse(verbose=False)
    assert fused.is_fused() and len(ghosts_of(fused)) == count
    torch.testing.assert_close(output(fused, image), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", NETWORKS)
def test_yolo_predicts_and_validates_with_it(yolo, generated, name, tmp_path):
    model = yolo(name)
    image = np.full((SIZE, SIZE, 3), 99, dtype=np.uint8)
    (found,) = model.predict(image, imgsz=SIZE, verbose=False, save=False)
    assert found.orig_shape == (SIZE, SIZE)
    metrics = model.val(
        data=str(generated[model.task]), imgsz=SIZE, batch=4, workers=0, plots=False,
        verbose=False, project=str(tmp_path),
    )  # fmt: skip
    assert np.isfinite(metrics.fitness)


@pytest.mark.parametrize("name", NETWORKS)
def test_yolo_trains_it_for_an_epoch(yolo, generated, name, tmp_path):
    model = yolo(name)
    converted, before = model.model, copy.deepcopy(model.model.state_dict())

    class Kept(model.task_map[model.task]["trainer"]):
        """Trains the network that there is, and builds none."""

        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            return converted

    model.train(
        trainer=Kept, data=str(generated[model.task]), imgsz=SIZE, epochs=1, batch=4, workers=0,
        plots=False, verbose=False, device="cpu", amp=False, project=str(tmp_path),
    )  # fmt: skip
    assert ghosts_of(model.model) == ghosts_of(converted)
    first = f"{ghosts_of(converted)[1]}.cheap.weight"
    assert not torch.equal(converted.state_dict()[first], before[first])
    assert ghosts_of(YOLO(model.trainer.best).model) == ghosts_of(converted)


@pytest.mark.parametrize("name", NETWORKS)
def test_yolo_exports_it_to_onnx(yolo, name, tmp_path, monkeypatch):
    onnxruntime = pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    model = yolo(name)
    model.save("converted.pt")
    file = YOLO("converted.pt").export(format="onnx", imgsz=SIZE, verbose=False)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, SIZE, SIZE)
    made = session.run(None, {session.get_inputs()[0].name: image.numpy()})[0]
    wanted = output(YOLO("converted.pt").model.float(), image)
    torch.testing.assert_close(torch.from_numpy(made), wanted, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name, losses", [
    ("yolo11n.yaml", ("box", "cls", "dfl")), ("yolov8n.yaml", ("box", "cls", "dfl")),
    ("yolo11n-seg.yaml", ("box", "seg", "cls", "dfl")),
])  # fmt: skip
def test_it_is_tuned_by_its_own_loss_beside_its_original(generated, name, losses):
    torch.manual_seed(0)
    original = YOLO(name)
    args = get_cfg(overrides={"task": original.task, "imgsz": SIZE, "mosaic": 0.0})
    original.model.args = args  # the weights of its losses
    network = settled(original.model)
    info = check_det_dataset(str(generated[original.task]))
    train, val = (
        build_yolo_dataset(args, info[split], 4, info, mode=split) for split in ("train", "val")
    )

    def loss(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
        parts, _ = model.loss({**batch, "img": batch["img"].float() / 255})
        return dict(zip(losses, parts, strict=False))

    def metric(model: nn.Module, batches: Any) -> float:
        return -float(sum(sum(loss(model, batch).values()) for batch in batches))

    rows: list[Any] = []
    tuned = ghostify.finetune(
        ghostify.convert(network, s=2, input_size=(3, SIZE, SIZE)), train, teacher=network,
        loss=loss, metric=metric, val=val, steps=6, batch_size=4, lr=0.01, features=10.0,
        log_steps=1, progress=rows.append,
    )  # fmt: skip
    assert tuned.losses == (*(f"own/{part}" for part in losses), "features")
    ghosts = set(ghosts_of(tuned.model))
    assert len(tuned.points) > 0.6 * len(ghosts) and set(tuned.points) <= ghosts
    assert rows[-1].features < rows[0].features < 3
    assert tuned.validation.value >= tuned.before.value
