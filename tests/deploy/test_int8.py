"""Files in int8: quantised by images, compared on them, or not written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.data.spool import Spool
from ghostify.deploy import int8
from ghostify.deploy.norms import norms_to_convolutions
from ghostify.deploy.program import Program
from ghostify.deploy.proof import prove
from ghostify.deploy.samples import Samples
from ghostify.errors import GhostifyError, ModelError
from tests.deploy.test_fusing import alive


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return alive(ghostify.convert("resnet20-cifar", s=2))


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(24, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_weights_keep_a_bit_free_for_processors_that_add_up_in_16(
    small_net: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    path = tmp_path / "net.onnx"
    ghostify.export(type(small_net)(64), path, int8=True, calibration=images)
    tensors = [onnx.numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer]
    weights = [t for t in tensors if t.dtype == "int8" and t.ndim > 1]
    assert weights and all(abs(w.astype(int)).max() <= 64 for w in weights)


@pytest.mark.parametrize(
    ("ending", "package", "batch"),
    [
        (".onnx", "onnxruntime", "dynamic"),
        (".onnx", "onnxruntime", 4),
        (".xml", "nncf", 1),
        (".pte", "executorch", 1),
    ],
)
def test_a_file_in_int8_is_smaller_and_near(
    small_net: nn.Module, images: Tensor, tmp_path: Path, ending: str, package: str, batch: object
) -> None:
    pytest.importorskip(package)
    wide = type(small_net)(64)
    plain = ghostify.export(wide, tmp_path / f"float{ending}", batch=batch, input_size=(3, 32, 32))
    done = ghostify.export(
        wide, tmp_path / f"net{ending}", batch=batch, int8=True, calibration=images
    )
    assert done.bytes < 0.6 * plain.bytes
    assert done.int8 and done.on_images and 0 < done.noise < 0.1
    assert done.batches == ((2, 3) if batch == "dynamic" else (batch,))
    assert f"in int8, {done.bytes / 1e6:.1f} MB" in str(done)


def test_a_converted_network_in_int8_is_one_of_quantised_convolutions(
    network: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    onnx = pytest.importorskip("onnx")
    done = ghostify.export(network, tmp_path / "net.onnx", int8=True, calibration=images)
    model = onnx.load(done.path)
    dequantized = {o for n in model.graph.node if n.op_type == "DequantizeLinear" for o in n.output}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 3 * 19  # primary, cheap, the norm of the intrinsic maps
    assert all(set(node.input[:2]) <= dequantized for node in convolutions)
    assert run_by_onnx_runtime(done.path, tmp_path).isdisjoint({"Conv", "BatchNormalization"})
    facts = {entry.key: entry.value for entry in model.metadata_props}
    assert facts["precision"] == "int8" and facts["model"] == "resnet20-cifar"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["net.onnx"]
    proof = json.loads(done.to_json())["proof"]
    assert [(p["batch"], p["images"]) for p in proof] == [(1, 24)]


def run_by_onnx_runtime(path: Path, folder: Path) -> set[str]:
    """Names of the ops that it makes of a file (signed maps were run in floats on x86)."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    ops = {node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node}
    Path(options.optimized_model_filepath).unlink()
    return ops


def test_norms_become_convolutions_that_compute_the_same() -> None:
    norm = alive(nn.Sequential(nn.BatchNorm2d(6, affine=False), nn.BatchNorm2d(6)))
    x = torch.randn(2, 6, 4, 4)
    with torch.no_grad():
        expected = norm(x)
        norms_to_convolutions(norm)
        assert [type(layer) for layer in norm] == [nn.Conv2d, nn.Conv2d]
        assert torch.allclose(norm(x), expected, atol=1e-5)


def test_a_float_file_is_compared_on_the_images_that_are_given(
    network: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    done = ghostify.export(network, tmp_path / "net.pt2", calibration=images, batch=5)
    assert done.on_images and not done.int8
    assert [(p.batch, p.images, p.same_top1) for p in done.proof] == [(5, 20, 20)]


def test_too_much_noise_is_an_error_and_nothing_is_left(
    network: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    with pytest.raises(ModelError, match=r"in int8 differs .* \(RMS; tolerance 0 %\)"):
        ghostify.export(
            network, tmp_path / "net.onnx", int8=True, calibration=images, tolerance=1e-6
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "net.pt2", "int8": True, "calibration": True}, "pt2 has no int8 here: give one"),
        ({"path": "net.onnx", "int8": True}, "int8 needs images"),
        ({"path": "net.onnx", "int8": True, "calibration": "data-free"}, "has no images"),
        ({"path": "net.onnx", "int8": True, "calibration": "nowhere"}, "nowhere"),
        ({"path": "net.pt2", "batch": 25, "calibration": True}, "24 calibration images are too f"),
        ({"path": "net.pt2", "calibration": torch.rand(2, 1, 8, 8)}, "can't take calibration"),
    ],
)
def test_bad_input_is_one_sentence(
    images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict, words: str
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    if given.get("calibration") is True:
        given = {**given, "calibration": images}
    with pytest.raises(GhostifyError, match=words):
        ghostify.export("resnet20-cifar", **given)
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_fails_is_told_in_a_sentence(
    network: nn.Module, images: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")

    def fail(program: Program, samples: Samples, path: Path) -> None:
        path.write_text("half")
        raise ValueError("no such op: Foo")

    monkeypatch.setitem(int8.QUANTIZERS, "onnx", int8.Quantizer((), "onnx", fail))
    with pytest.raises(ModelError, match=r"onnx can't hold .* in int8 \(ValueError: no such op: F"):
        ghostify.export(network, tmp_path / "net.onnx", int8=True, calibration=images)
    assert list(tmp_path.iterdir()) == []


def test_runs_take_their_batches_in_turn() -> None:
    spool = Spool()
    spool.append(torch.arange(9.0).view(9, 1))
    runs = [args[0].flatten().tolist() for args in Samples(spool, (2, 3)).runs()]
    assert runs == [[0, 1], [2, 3, 4], [5, 6]]
    assert len(list(Samples(spool, (2, 3)).runs(1))) == 2  # each batch has a run


def test_the_proof_counts_noise_and_classes_by_batch() -> None:
    program = Program(nn.Identity(), ())
    scores = torch.tensor([[3.0, 4.0], [0.0, 5.0]])

    def off(tensors: list[Tensor]) -> list[Tensor]:
        return [tensors[0] + torch.tensor([[2.0, 0.0]])]

    one, two = prove(off, program, [(scores[1:],), (scores,)])
    assert (one.batch, one.images, one.same_top1) == (1, 1, 1)
    assert (two.batch, two.images, two.same_top1) == (2, 2, 1)
    assert one.difference == pytest.approx(0.4) and one.noise == pytest.approx(0.4)
    assert two.noise == pytest.approx((8 / 50) ** 0.5)
    (cut,) = prove(lambda t: [t[0][:, :1]], program, [(scores,)])
    assert cut.difference == float("inf") and cut.same_top1 is None
