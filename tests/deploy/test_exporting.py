"""Files for runtimes: checked where they run, or not written."""

from __future__ import annotations

import dataclasses
import gc
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.deploy import formats
from ghostify.errors import GhostifyError, ModelError, SettingsError
from tests.deploy.test_fusing import alive, shuffled


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return shuffled(alive(ghostify.convert("resnet20-cifar", s=4)))


def run_onnx(path: Path, x: Tensor) -> Tensor:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def test_an_onnx_file_of_any_batch_gives_the_networks_outputs(
    network: nn.Module, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    done = ghostify.export(network, tmp_path / "net.onnx", batch="dynamic")
    assert (done.format, done.batches) == ("onnx", (2, 3))
    x = torch.rand(5, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(run_onnx(done.path, x), network(x), atol=1e-4)
    facts = {entry.key: entry.value for entry in onnx.load(done.path).metadata_props}
    assert facts["model"] == "resnet20-cifar"
    assert int(facts["macs"]) == ghostify.report(network).after.macs * 2  # of the two images
    assert json.loads(done.to_json())["bytes"] == done.path.stat().st_size
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.onnx"]


def test_what_is_exported_has_its_concats_at_axis_1(network: nn.Module, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    done = ghostify.export(network, tmp_path / "net.onnx")
    nodes = [node for node in onnx.load(done.path).graph.node if node.op_type == "Concat"]
    axes = [a.i for node in nodes for a in node.attribute if a.name == "axis"]
    assert axes.count(1) >= 9
    assert set(axes) <= {0, 1}  # PyTorch 2.6 puts a shape together along 0


def test_a_pt2_file_is_run_by_pytorch_alone(network: nn.Module, tmp_path: Path) -> None:
    done = ghostify.export(network, tmp_path / "net.pt2", batch=4)
    x = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        found = torch.export.load(done.path).module()(x)
        assert torch.allclose(found, network(x), atol=1e-4)


@pytest.mark.parametrize(
    ("ending", "package"),
    [(".xml", "openvino"), (".tflite", "litert_torch"), (".pte", "executorch")],
)
def test_the_other_formats_where_they_are_installed(
    network: nn.Module, tmp_path: Path, ending: str, package: str
) -> None:
    pytest.importorskip(package)
    done = ghostify.export(network, tmp_path / f"net{ending}")
    assert done.difference < 1e-4 and done.path.exists()


def test_an_executorch_session_outlives_what_opened_it(network: nn.Module, tmp_path: Path) -> None:
    """Its method reads the program's memory: once freed, outputs had shapes of garbage."""
    pytest.importorskip("executorch")
    done = ghostify.export(network, tmp_path / "net.pte")
    session = formats.FORMATS["executorch"].open(done.path, None)
    gc.collect()
    filler = [bytes(done.bytes) for _ in range(50)]
    x = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(session([x])[0], network(x), atol=1e-4)
    assert len(filler) == 50


@pytest.fixture
def wrong(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A runtime that is wrong by a hundredth."""
    pt2 = formats.FORMATS["pt2"]

    def off(path: Path, threads: int | None) -> formats.Session:
        session = pt2.open(path, threads)
        return lambda tensors: [1.01 * tensor for tensor in session(tensors)]

    monkeypatch.setitem(formats.FORMATS, "pt2", dataclasses.replace(pt2, open=off))
    yield


def test_outputs_that_differ_are_an_error_and_nothing_is_left(
    network: nn.Module, tmp_path: Path, wrong: None
) -> None:
    (tmp_path / "net.pt2").write_text("what was there")
    with pytest.raises(ModelError, match=r"differs from the network by 1\.0e-02"):
        ghostify.export(network, tmp_path / "net.pt2")
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ["what was there"]


def test_what_a_format_cannot_hold_is_said(tmp_path: Path) -> None:
    class OnData(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) if x.sum() > 0 else x[:, :1]

    with pytest.raises(ModelError, match=r"pt2 can't hold the network \("):
        ghostify.export(OnData(), tmp_path / "net.pt2", input_size=(3, 8, 8))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "net"}, "tells no format"),
        ({"path": "net.onnx", "format": "onx"}, "give onnx, openvino"),
        ({"path": "net.pt2", "batch": 0}, "batch=0 makes no sense"),
        ({"path": "nowhere/net.pt2"}, "nowhere"),
    ],
)
def test_bad_input_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(GhostifyError, match=words):
        ghostify.export("resnet20-cifar", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_runtime_that_is_not_installed_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = dataclasses.replace(formats.FORMATS["onnx"], packages=("onnx", "no_such_package"))
    monkeypatch.setitem(formats.FORMATS, "onnx", kind)
    with pytest.raises(SettingsError, match=r"no_such_package.*pip install 'ghostify\[onnx\]'"):
        ghostify.export("resnet20-cifar", tmp_path / "net.onnx")
