"""The engine: what it says about the machine."""

from __future__ import annotations

import platform
import warnings

import pytest
import torch

from ghostify.errors import GhostifyWarning
from ghostify.train.engine import open_engine

ASKED = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def on_a_processor(monkeypatch: pytest.MonkeyPatch, machine: str, has_bf16: bool) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    for name in ASKED:
        monkeypatch.setattr(torch.cpu, name, lambda: has_bf16, raising=False)


def test_bf16_on_a_processor_without_it_is_said_to_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    on_a_processor(monkeypatch, "x86_64", False)
    with pytest.warns(GhostifyWarning, match="no instructions for bf16"):
        open_engine("cpu", 1, "bf16")


@pytest.mark.parametrize(
    ("machine", "has_bf16", "precision"),
    [("x86_64", True, "bf16"), ("x86_64", False, "fp32"), ("aarch64", False, "bf16")],
)
def test_nothing_is_said_where_bf16_may_be_fast(
    monkeypatch: pytest.MonkeyPatch, machine: str, has_bf16: bool, precision: str
) -> None:
    on_a_processor(monkeypatch, machine, has_bf16)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*bf16")
        open_engine("cpu", 1, precision)
