"""Sums over images, against the plain computation on all of them at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ghostify.data.spool import Spool
from ghostify.warmstart.fit.ridge import solve, unexplained_by
from ghostify.warmstart.fit.sampling import Window, sample_places
from ghostify.warmstart.fit.statistics import RegressionMoments, WindowMoments


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_moments_of_batches_are_those_of_all_rows() -> None:
    x, y = rand(2, 60, 5), rand(2, 60, 3, seed=1)
    streamed = RegressionMoments(2, 5, 3)
    for rows in torch.arange(60).split(17):
        streamed.add(x[:, rows], y[:, rows])
    gram, cross = streamed.centred()
    centred_x = (x - x.mean(1, keepdim=True)).double()
    centred_y = (y - y.mean(1, keepdim=True)).double()
    torch.testing.assert_close(gram, centred_x.mT @ centred_x, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(cross, centred_x.mT @ centred_y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(streamed.variance(), centred_y.square().sum(1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rows", [4, 60])  # fewer than regressors, more
def test_other_targets_of_the_same_rows_are_as_if_they_had_been_the_first(rows: int) -> None:
    x, y, others = rand(2, rows, 5), rand(2, rows, 3, seed=1), rand(2, rows, 3, seed=2)
    parts = torch.arange(rows).split(17)
    first = RegressionMoments.of(2, 5, 3, ((x[:, p], y[:, p]) for p in parts))
    again = first.retargeted((x[:, p], others[:, p]) for p in parts)
    direct = RegressionMoments.of(2, 5, 3, ((x[:, p], others[:, p]) for p in parts))
    for found, wanted in zip(solve_all(again), solve_all(direct), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    # The first moments are as they were.
    torch.testing.assert_close(first.energy, y.double().square().sum(1), rtol=1e-4, atol=1e-4)


def solve_all(moments: RegressionMoments) -> tuple[torch.Tensor, ...]:
    found = solve(moments, 1e-3)
    return found.weight, found.intercept, found.residual, moments.variance()


def test_moments_hold_as_many_numbers_for_a_thousand_rows_as_for_ten() -> None:
    sizes = set()
    for rows in (10, 1000):
        sums = RegressionMoments(1, 5, 3)
        sums.add(rand(1, rows, 5), rand(1, rows, 3))
        assert sums.count == rows
        sizes.add((sums.gram.numel(), sums.cross.numel(), sums.energy.numel()))
    assert len(sizes) == 1


def test_least_squares_finds_the_map_that_made_the_targets() -> None:
    x, weight, offset = rand(1, 200, 4), rand(2, 4, seed=1), rand(2, seed=2)
    moments = RegressionMoments(1, 4, 2)
    moments.add(x, x @ weight.T + offset)
    found = solve(moments, ridge=1e-9)
    torch.testing.assert_close(found.weight[0].float(), weight, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.intercept[0].float(), offset, rtol=1e-3, atol=1e-3)
    assert float(found.residual.max()) < 1e-3


def test_a_heavy_ridge_gives_the_prior() -> None:
    moments = RegressionMoments(1, 4, 2)
    moments.add(rand(1, 50, 4), rand(1, 50, 2, seed=1))
    prior = rand(1, 2, 4, seed=2).double()
    torch.testing.assert_close(solve(moments, 1e9, prior).weight, prior, rtol=1e-4, atol=1e-4)


@given(
    rows=st.integers(2, 30),
    inputs=st.integers(1, 30),
    groups=st.integers(1, 3),
    intercept=st.booleans(),
    kinds=st.booleans(),
    has_prior=st.booleans(),
)
def test_few_rows_are_fitted_to_as_their_sums_are(
    rows: int, inputs: int, groups: int, intercept: bool, kinds: bool, has_prior: bool
) -> None:
    x, y = rand(groups, rows, inputs), rand(groups, rows, 2, seed=1)
    few, sums = RegressionMoments(groups, inputs, 2), RegressionMoments(groups, inputs, 2)
    for moments in (few, sums):
        moments.add(x, y)
    assert sums.gram.shape == (groups, inputs + 1, inputs + 1)  # they are summed from here on
    assert (few.rows() is not None) == (rows < inputs) and sums.rows() is None
    prior = rand(groups, 2, inputs, seed=2).double() if has_prior else None
    ridge = torch.tensor([0.1, 0.5] * inputs)[:inputs] if kinds else 0.1
    found, plain = (solve(moments, ridge, prior, intercept) for moments in (few, sums))
    close = {"rtol": 1e-3, "atol": 1e-3}
    torch.testing.assert_close(found.weight, plain.weight, **close)
    torch.testing.assert_close(found.intercept, plain.intercept, **close)
    torch.testing.assert_close(found.residual, plain.residual, **close)
    torch.testing.assert_close(few.variance(), sums.variance(), **close)
    for moments in (few, sums):
        torch.testing.assert_close(unexplained_by(moments, found), plain.residual, **close)


def test_looks_of_batches_are_those_of_all_rows() -> None:
    windows, maps = rand(2, 5000, 9, 3), rand(2, 5000, 3, seed=1)
    streamed = WindowMoments(2, 3, 9)
    for rows in torch.arange(5000).split(1300):
        streamed.add(windows[:, rows], maps[:, rows])
    found = streamed.summed()
    seen = (windows - windows.mean(1, keepdim=True)).double()
    wanted = (maps - maps.mean(1, keepdim=True)).double()
    plain = {
        "gram": torch.einsum("grkm,grlm->gmkl", seen, seen),
        "cross": torch.einsum("grkm,grn->gmkn", seen, wanted),
        "energy": wanted.square().sum(1),
        "look": windows.double().mean(1).mT,
        "mean": maps.double().mean(1),
    }
    for name, expected in plain.items():
        torch.testing.assert_close(getattr(found, name), expected, rtol=1e-3, atol=2e-2)


@settings(max_examples=25, deadline=None)
@given(
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.integers(0, 2),
    mode=st.sampled_from(["zeros", "reflect", "replicate", "circular"]),
)
def test_patches_times_filters_is_the_convolution(
    kernel: int, stride: int, dilation: int, padding: int, mode: str
) -> None:
    conv = nn.Conv2d(
        3,
        5,
        kernel,
        stride,
        padding,
        dilation,
        bias=False,
        padding_mode=mode,  # type: ignore[arg-type]
    )
    x = rand(2, 3, 11, 12)
    out = conv(x)
    rows, columns = sample_places(out.shape[2:], most=10_000, generator=torch.Generator())
    patches = Window.of(conv).patches(x, rows, columns)
    made = torch.einsum("crk,ock->or", patches, conv.weight.flatten(2))
    torch.testing.assert_close(made, out.transpose(0, 1).flatten(1), rtol=1e-3, atol=1e-4)


def test_places_are_drawn_without_repetition() -> None:
    rows, columns = sample_places((6, 7), 20, torch.Generator().manual_seed(0))
    assert len(set(zip(rows.tolist(), columns.tolist(), strict=True))) == 20
    assert int(rows.max()) < 6
    assert int(columns.max()) < 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_a_spool_gives_back_what_went_in(dtype: torch.dtype) -> None:
    x = (rand(7, 3, 2) * 50).abs().to(dtype)
    spool = Spool()
    for batch in x.split(3):
        spool.append(batch)
    assert torch.equal(torch.cat(list(spool.batches(4))), x)
    assert torch.equal(spool.take([6, 0, 6]), x[[6, 0, 6]])
