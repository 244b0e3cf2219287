"""Eq. 4 and Eq. 5, and what is measured beside them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ghostify
from ghostify.api import preview
from ghostify.cost import approximate_ratio, compression_ratio, speedup_ratio

channels, kernels = st.integers(1, 512), st.integers(1, 7)
ss, ds = st.integers(2, 8), st.sampled_from([1, 3, 5, 7])


@given(c=channels, k=kernels, s=ss, d=ds, m=st.integers(1, 64), size=st.integers(1, 56))
def test_equation_4_is_the_ratio_of_macs_written_out(
    c: int, k: int, s: int, d: int, m: int, size: int
) -> None:
    n, positions = m * s, size * size
    convolution = n * positions * c * k * k
    ghost = (n // s) * positions * c * k * k + (s - 1) * (n // s) * positions * d * d
    assert speedup_ratio(c, (k, k), s, d) == pytest.approx(convolution / ghost)


@given(c=channels, k=kernels, s=ss, d=ds, m=st.integers(1, 64))
def test_equation_5_is_the_ratio_of_weights_written_out(
    c: int, k: int, s: int, d: int, m: int
) -> None:
    n = m * s
    ghost = (n // s) * c * k * k + (s - 1) * (n // s) * d * d
    assert compression_ratio(c, (k, k), s, d) == pytest.approx(n * c * k * k / ghost)


@given(c=channels, k=st.sampled_from([1, 3, 5, 7]), s=ss)
def test_the_approximation_is_exact_where_d_is_k(c: int, k: int, s: int) -> None:
    assert approximate_ratio(c, s) == pytest.approx(speedup_ratio(c, (k, k), s, k))


@given(c=st.integers(1000, 100_000), s=ss)
def test_the_approximation_tends_to_s(c: int, s: int) -> None:
    assert s * 0.99 < approximate_ratio(c, s) < s


@pytest.mark.parametrize(("s", "d"), [(2, 1), (2, 3), (4, 3), (2, 5)])
def test_measured_ratios_of_a_layer_are_the_equations_where_s_divides_n(s: int, d: int) -> None:
    report = preview(ghostify.build("resnet20-cifar"), s=s, d=d)
    assert report is not None and report.replaced
    for row in report.replaced:
        assert row.ratios.macs == pytest.approx(row.eq4)
        assert row.ratios.params == pytest.approx(row.eq5)


def test_measured_ratios_of_strided_and_grouped_layers_are_the_equations() -> None:
    report = preview(ghostify.build("resnext50_32x4d"), s=2, input_size=(3, 64, 64))
    assert report is not None
    grouped = [row for row in report.replaced if row.name.endswith("conv2")]
    assert len(grouped) == 16
    for row in report.replaced:
        assert row.ratios.macs == pytest.approx(row.eq4)
