"""Measured time: who is compared with whom, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import ghostify
from ghostify.deploy import RUNTIMES, Benchmark, PartTime
from ghostify.deploy.memory import peak_memory
from ghostify.deploy.parts import programs_of
from ghostify.deploy.program import Program
from ghostify.deploy.runtimes import Way
from ghostify.errors import GhostifyError
from ghostify.saving.history import history_of


def test_every_combination_is_measured_beside_the_first_network() -> None:
    small = ghostify.build("resnet20-cifar")
    found = ghostify.benchmark(small, ghostify.convert(small, s=4), batch=[1, 2], seconds=0)
    assert [(row.batch, row.network) for row in found.rows] == [
        (1, "resnet20-cifar"), (1, "resnet20-cifar, converted"),
        (2, "resnet20-cifar"), (2, "resnet20-cifar, converted"),
    ]  # fmt: skip
    assert all(row.form in ("channels_last", "contiguous") for row in found.rows)
    assert [row.ratio for row in found.rows[::2]] == [1, 1]
    assert all(row.low <= row.ratio <= row.high for row in found.rows)
    assert found.inputs == "3x32x32"
    assert json.loads(found.to_json())["rows"][0]["runtime"] == "eager"
    assert "resnet20-cifar, converted" in found.to_markdown()


def test_a_saved_conversion_alone_is_compared_with_its_original(tmp_path: Path) -> None:
    folder = ghostify.save(ghostify.convert("resnet20-cifar", s=4), tmp_path / "out")
    found = ghostify.benchmark(ghostify.load(folder), seconds=0)
    assert [row.network for row in found.rows] == ["resnet20-cifar", "resnet20-cifar, converted"]


def test_the_networks_stay_as_they_are() -> None:
    network = ghostify.build("resnet20-cifar").train()
    threads = torch.get_num_threads()
    ghostify.benchmark(network, seconds=0, threads=2)
    assert network.training and torch.get_num_threads() == threads


def test_onnx_runtime_runs_the_inference_form() -> None:
    pytest.importorskip("onnxruntime")
    found = ghostify.benchmark("resnet20-cifar", runtime="onnxruntime", seconds=0)
    assert found.to_markdown().startswith("## Measured time")
    assert (found.rows[0].runtime, found.rows[0].form) == ("onnxruntime", "")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"runtime": "onnxrun"}, "onnxruntime"),
        ({"batch": 0}, "batch=0"),
        ({"threads": 0}, "threads=0"),
        ({"input_size": (3, 0, 8)}, "input_size"),
        ({"input_size": (4, 32, 32)}, "can't take an input of 1x4x32x32"),
        ({"device": "nowhere"}, "device='nowhere'"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"runtime": "cudagraph"}, "cudagraph runs on cuda"),
        ({"layers": True}, "layers=True"),
    ],
)
def test_bad_input_is_one_sentence(given: dict, words: str) -> None:
    with pytest.raises(GhostifyError, match=words):
        ghostify.benchmark("resnet20-cifar", **given)


def test_a_lone_conversion_of_unknown_origin_needs_its_original() -> None:
    network = ghostify.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), input_size=(3, 8, 8))
    with pytest.raises(GhostifyError, match="give the original before it"):
        ghostify.benchmark(network)


def converted_pair(**options) -> list[nn.Module]:
    network = ghostify.build("resnet20-cifar")
    return [network, ghostify.convert(network, **options)]


@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_each_converted_layer_is_timed_alone_slowest_first(runtime: str) -> None:
    pytest.importorskip("onnxruntime")
    pair = converted_pair(s=2, only="layer3.*")
    found = ghostify.benchmark(*pair, runtime=runtime, layers=True, seconds=0)
    (plan,) = history_of(pair[1]).plans
    assert {row.part for row in found.parts} == {layer.name for layer in plan.replaced}
    times = [row.after for row in found.parts]
    assert times == sorted(times, reverse=True) and found.notes == ()
    assert json.loads(found.to_json())["parts"][0]["network"] == "resnet20-cifar, converted"


def test_stages_are_timed_as_the_blocks_that_they_were() -> None:
    found = ghostify.benchmark(*converted_pair(mode="g-ghost"), layers=True, seconds=0)
    assert {row.part for row in found.parts} == {"layer1", "layer2", "layer3"}


def test_modules_after_each_other_are_one_part() -> None:
    network = ghostify.fuse(ghostify.build("resnet20-cifar").eval(), fold_ghost_norms=False)
    x = torch.rand(1, 3, 32, 32)
    (program,) = programs_of(network, (x,), {"all": ["layer1.0", "layer1.1"]}).values()
    assert [t.shape for t in program.run()] == [(1, 16, 32, 32)]


def test_a_norm_that_stays_after_a_ghost_module_belongs_to_it() -> None:
    network = ghostify.convert(ghostify.build("resnet20-cifar"), s=2).eval()
    x, parts = torch.rand(1, 3, 32, 32), {"one": ["layer1.0.conv1"]}
    (open_norm,) = programs_of(ghostify.fuse(network, fold_ghost_norms=False), (x,), parts).values()
    (folded,) = programs_of(ghostify.fuse(network), (x,), parts).values()
    assert [len(p.network) for p in (open_norm, folded)] == [2, 1]


def test_what_got_slower_is_marked_only_beyond_chance() -> None:
    times = [PartTime("a", "net", "eager", 1, 1, 1.0, 1.2, 1.2, low, 1.3) for low in (1.1, 0.9)]
    text = str(Benchmark((), "3x8x8", "CPU time", parts=tuple(times)))
    assert [time.is_slower for time in times] == [True, False] and text.count("slower") == 1


def test_halves_are_measured_where_pytorch_runs() -> None:
    found = ghostify.benchmark("resnet20-cifar", dtype="bfloat16", seconds=0)
    assert found.dtype == "bfloat16"
    with pytest.raises(GhostifyError, match="float32 alone"):
        ghostify.benchmark("resnet20-cifar", runtime="aoti", dtype=torch.bfloat16)


def test_peak_memory_is_the_weights_and_what_lives_at_once() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.Conv2d(8, 4, 1, bias=False)).eval()
    program = Program(network, (torch.rand(1, 3, 64, 64),))
    kilobyte_maps = (8 + 4) * 64 * 64 * 4
    way = Way(1, "contiguous", Path())
    peak = peak_memory(RUNTIMES["eager"], program, way, RUNTIMES["eager"].prepare(program, way))
    assert kilobyte_maps + (24 + 32) * 4 <= peak < 2.5 * kilobyte_maps


def test_a_runtime_of_files_has_a_process_of_its_own_for_its_memory() -> None:
    pytest.importorskip("onnxruntime")
    (row,) = ghostify.benchmark("resnet20-cifar", runtime="onnxruntime", seconds=0).rows
    assert row.peak_bytes is None or row.peak_bytes > 10**6


class OneImage(nn.Module):
    """A network for batches of one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).view(1, 4, 6, 6)


def test_a_batch_that_the_network_does_not_take_is_one_sentence() -> None:
    with pytest.raises(GhostifyError, match=r"can't be run on \(2, 3, 8, 8\)"):
        ghostify.benchmark(OneImage(), input_size=(3, 8, 8), batch=[1, 2])
    with pytest.raises(GhostifyError, match="does not fit into memory"):
        ghostify.benchmark(OneImage(), input_size=(3, 8, 8), batch=10**12)
