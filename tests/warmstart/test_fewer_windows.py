"""Cheap kernels are fitted to a part of the places that filters are fitted to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import ghostify
from ghostify.warmstart.c_ghost import sequential
from ghostify.warmstart.fit.statistics import WindowMoments


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
    ).eval()


def fitted(images: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[float, list[int]]:
    """The second layer's held-out error, and how many windows each layer was fitted to."""
    rows: list[int] = []
    whole = WindowMoments.summed

    def summed(moments: WindowMoments) -> object:
        found = whole(moments)
        rows.append(int(moments._count))
        return found

    with monkeypatch.context() as patched:
        patched.setattr(WindowMoments, "summed", summed)
        converted = ghostify.convert(network(), calibration=images)
    row = ghostify.report(converted).rows[-1]
    error = row.error if row.held_out is None else row.held_out
    assert error is not None
    return error, rows


def test_a_quarter_of_sampled_places_fits_kernels_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = torch.rand(192, 3, 24, 24)
    some, fewer = fitted(images, monkeypatch)
    monkeypatch.setattr(sequential, "WINDOW_PART", 1)
    all_of_them, rows = fitted(images, monkeypatch)
    assert fewer == [pytest.approx(count / 4, rel=0.02) for count in rows]
    assert some < 1.05 * all_of_them


def test_where_all_places_are_looked_at_none_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = fitted(torch.rand(24, 3, 16, 16), monkeypatch)
    assert rows[-1] == 24 * 16 * 16
