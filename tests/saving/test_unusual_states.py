"""Networks that name their state otherwise, have no shapes yet, or tensors that no file holds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.ao.quantization as quantization
from torch import Tensor, nn

import ghostify
from ghostify.errors import SavedFolderError

IMAGES = torch.randn(32, 3, 10, 10, generator=torch.Generator().manual_seed(0))


class Wrapped(nn.Module):
    """Its state is that of the network inside."""

    def __init__(self) -> None:
        super().__init__()
        self.m = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.m(x)

    def state_dict(self, *args, **kwargs):
        return self.m.state_dict(*args, **kwargs)

    def load_state_dict(self, state, *args, **kwargs):
        return self.m.load_state_dict(state, *args, **kwargs)


class Plain(Wrapped):
    """The same, and its ``state_dict`` takes no arguments."""

    def state_dict(self):
        return self.m.state_dict()


@pytest.mark.parametrize("kind", [Wrapped, Plain])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_state_under_other_names_is_loaded_orders_and_types_included(kind, dtype, tmp_path: Path):
    network = kind().eval()
    converted = ghostify.convert(network, s=2, calibration=IMAGES).to(dtype)
    assert any(key.endswith("order") for key in converted.state_dict())
    ghostify.save(converted, tmp_path / "saved")
    if kind is Plain:  # whose tensors can't be told from its modules' names
        return
    loaded = ghostify.load(tmp_path / "saved", model=network)
    assert loaded.m[0].primary.weight.dtype == dtype
    assert torch.equal(loaded.float()(IMAGES), converted.float()(IMAGES))


def test_a_network_that_was_not_lazy_when_saved_is_loaded_into_a_lazy_one(tmp_path: Path):
    def make() -> nn.Module:
        layers = nn.LazyConv2d(16, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Conv2d(16, 32, 3)
        return nn.Sequential(*layers)

    converted = ghostify.convert(make(), s=2, example_inputs=(IMAGES,))
    converted(IMAGES)
    ghostify.save(converted, tmp_path / "saved")
    loaded = ghostify.load(tmp_path / "saved", model=make())
    assert torch.equal(loaded.eval()(IMAGES), converted.eval()(IMAGES))


def test_a_quantised_part_is_refused_in_a_sentence_and_nothing_is_written(tmp_path: Path):
    parts = quantization.QuantStub(), nn.Conv2d(3, 16, 3), quantization.DeQuantStub()
    network = nn.Sequential(*parts, nn.Conv2d(16, 32, 3)).eval()
    for part in network[:3]:
        part.qconfig = quantization.get_default_qconfig("fbgemm")
    quantization.prepare(network, inplace=True)(IMAGES)
    converted = ghostify.convert(quantization.convert(network), s=2, example_inputs=IMAGES[:1])
    with pytest.raises(SavedFolderError, match="is quantised"):
        ghostify.save(converted, tmp_path / "saved")
    assert not list(tmp_path.iterdir())
