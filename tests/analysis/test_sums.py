"""Sums against slow references: correlations by NumPy, kernels by least squares on the patches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostify.analysis.select import alike_pairs, intrinsic_order, sources_of
from ghostify.analysis.sums import CrossMoments, KernelFits, Moments


def _maps(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _slow_mse(source, target, d):
    """Least squares on every patch of every image, written out."""
    rows, wanted = [], []
    for image in range(len(source)):
        padded = F.pad(source[image], (d // 2,) * 4)
        for y in range(source.shape[1]):
            for x in range(source.shape[2]):
                rows.append([*padded[y : y + d, x : x + d].flatten().tolist(), 1.0])
                wanted.append(float(target[image, y, x]))
    rows, wanted = np.array(rows), np.array(wanted)
    solution = np.linalg.lstsq(rows, wanted, rcond=None)[0]
    return float(((rows @ solution - wanted) ** 2).mean())


@settings(max_examples=10, deadline=None)
@given(
    n=st.integers(1, 3), c=st.integers(2, 6), h=st.integers(3, 8), w=st.integers(3, 8),
    offset=st.sampled_from([0.0, 1000.0]),
)  # fmt: skip
def test_correlation_is_numpys(n, c, h, w, offset):
    maps = _maps(n, c, h, w) + offset
    moments = Moments(c)
    for image in maps.split(1):
        moments.add(image)
    expected = np.corrcoef(maps.double().transpose(0, 1).flatten(1).numpy())
    np.testing.assert_allclose(moments.correlation.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("d", [1, 3, 5])
def test_mse_is_that_of_least_squares_on_the_patches(d):
    maps = _maps(2, 3, 7, 6)
    fits = KernelFits([(0, 1), (2, 0)], (d, 5))
    for image in maps.split(1):
        fits.add(image)
    expected = [_slow_mse(maps[:, 0], maps[:, 1], d), _slow_mse(maps[:, 2], maps[:, 0], d)]
    assert fits.errors()[:, 0].tolist() == pytest.approx(expected)


def test_fits_in_chunks_are_the_same(monkeypatch):
    maps = _maps(1, 6, 9, 9)
    pairs = [(5, 0), (1, 2), (3, 4), (1, 5)]
    whole, chunked = KernelFits(pairs, (3,)), KernelFits(pairs, (3,))
    whole.add(maps)
    monkeypatch.setattr("ghostify.analysis.sums.CHUNK_BYTES", 1)
    chunked.add(maps)
    torch.testing.assert_close(whole.errors(), chunked.errors())


def test_a_larger_kernel_never_fits_worse():
    fits = KernelFits([(0, 1)], (1, 3, 5, 7))
    fits.add(_maps(1, 2, 16, 16))
    errors = fits.errors()[0].tolist()
    assert errors == sorted(errors, reverse=True)


def test_a_1x1_kernel_leaves_what_the_correlation_leaves():
    maps = _maps(1, 2, 16, 16)
    maps[:, 1] += 0.7 * maps[:, 0]
    moments, fits = Moments(2), KernelFits([(0, 1)], (1,))
    moments.add(maps)
    fits.add(maps)
    left = fits.variances()[0] * (1 - moments.correlation[0, 1] ** 2)
    assert float(fits.errors()[0, 0]) == pytest.approx(float(left))


def test_channels_that_do_not_vary_have_no_correlation_and_no_error():
    maps = _maps(1, 3, 8, 8)
    maps[:, 1] = 5.0
    moments, fits = Moments(3), KernelFits([(1, 0), (0, 1)], (1, 3))
    moments.add(maps)
    fits.add(maps)
    assert moments.variance[1] == 0
    assert moments.correlation[1].tolist() == [0, 0, 0]
    assert fits.errors().isfinite().all()
    assert float(fits.errors()[1, 1]) == pytest.approx(0, abs=1e-9)


def test_blocks_explained_is_adjusted_r2_of_a_regression():
    first, last = _maps(2, 3, 8, 8), _maps(2, 4, 8, 8, seed=1)
    last[:, 0] = first[:, 1] - 2 * first[:, 2] + 3  # exactly a 1 x 1 convolution of the first
    crossed = CrossMoments(3, 4)
    crossed.add(first, last)
    x = np.c_[first.transpose(0, 1).flatten(1).T.numpy(), np.ones(128)]
    y = last.transpose(0, 1).flatten(1).T.numpy()
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    plain = 1 - residual.var(0) / y.var(0)
    adjusted = np.clip(1 - (1 - plain) * 127 / (128 - 3 - 1), 0, 1)
    np.testing.assert_allclose(crossed.r2().numpy(), adjusted, atol=1e-6)
    assert float(crossed.r2()[0]) == pytest.approx(1)


def test_too_few_positions_tell_nothing_of_blocks():
    crossed = CrossMoments(40, 4)
    crossed.add(_maps(1, 40, 4, 4), _maps(1, 4, 4, 4))
    assert crossed.r2() is None


def test_pairs_are_the_most_alike_and_share_no_channel():
    correlation = torch.eye(4)
    for a, b, r in [(0, 1, 0.9), (1, 2, -0.95), (0, 3, 0.5), (2, 3, 0.8)]:
        correlation[a, b] = correlation[b, a] = r
    assert alike_pairs(correlation, 3) == [(1, 2), (0, 3)]


def _covered(correlation, taken):
    return float(correlation[taken].square().amax(0).sum())


@settings(max_examples=20, deadline=None)
@given(channels=st.integers(2, 14), seed=st.integers(0, 1000))
def test_each_intrinsic_channel_is_the_best_next_one(channels, seed):
    moments = Moments(channels)
    moments.add(_maps(1, channels, 4, 4, seed=seed))
    count = -(-channels // 2)
    order = intrinsic_order(moments.correlation, count)
    for taken in range(count):
        reached = _covered(moments.correlation, order[: taken + 1])
        others = (order[:taken] + [channel] for channel in range(channels))
        assert reached == pytest.approx(max(_covered(moments.correlation, o) for o in others))


def test_each_other_channel_goes_with_its_most_alike_intrinsic_one():
    correlation = torch.tensor(
        [[1, 0.2, 0.3, -0.9], [0.2, 1, 0.8, 0], [0.3, 0.8, 1, 0.1], [-0.9, 0, 0.1, 1]]
    )
    assert sources_of(correlation, [0, 1]) == {2: 1, 3: 0}
