"""Filters that serve a whole family of maps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ghostify
from ghostify.nn.ghost import GhostConv2d
from ghostify.warmstart.c_ghost.families import Families, FamilyFit, FamilyMoments
from ghostify.warmstart.c_ghost.pairing import Pairing
from ghostify.warmstart.fit.targets import Targets


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_families(m: int, s: int) -> Families:
    """Maps 0 to m s - 1 in a drawn order."""
    maps = torch.randperm(m * s, generator=torch.Generator().manual_seed(m)).view(m, s)
    return Families.of([Pairing(maps[:, 0], maps[:, 1:], 0.0)], m * s)


def rows_of(m: int, s: int, taps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Windows and targets that have something to do with each other and with those beside them."""
    common = draw(1, 60, taps, seed=seed)
    windows = common + draw(m * s, 60, taps, seed=seed + 1)
    targets = windows[..., taps // 2] + 0.3 * draw(m * s, 60, seed=seed + 2)
    return windows, targets


def moments_of(families: Families, windows: Tensor, targets: Tensor) -> FamilyMoments:
    means = windows.mean(1), targets.mean(1)
    return FamilyMoments.of(families, [(windows, Targets(targets))], means)


def fitted(moments: FamilyMoments, rounds: int, ridge: float) -> FamilyFit:
    return moments.given(moments.mixes(rounds)).fitted(ridge)


def left_slowly(families: Families, fit: FamilyFit, windows: Tensor, targets: Tensor) -> float:
    """Make each map of each family, and compare it."""
    gap = energy = 0.0
    for row, maps in enumerate(families.members.tolist()):
        seen = sum(
            part * (windows[i] - windows[i].mean(0))
            for part, i in zip(fit.mixes[row], maps, strict=True)
        )
        for place, i in enumerate(maps):
            if not families.exists[row, place]:
                continue
            wanted = targets[i] - targets[i].mean()
            made = seen[:, seen.shape[1] // 2] if place == 0 else seen @ fit.kernels[row, place - 1]
            gap += float((made - wanted).square().sum())
            energy += float(wanted.square().sum())
    return gap / energy


@settings(deadline=None, max_examples=30)
@given(
    m=st.integers(1, 4), s=st.integers(2, 4), taps=st.sampled_from([1, 3]), seed=st.integers(0, 99)
)
def test_what_is_left_is_what_the_maps_differ_by(m: int, s: int, taps: int, seed: int) -> None:
    families, rows = some_families(m, s), rows_of(m, s, taps, seed)
    moments = moments_of(families, *rows)
    for rounds in (0, 12):
        fit = fitted(moments, rounds, 1e-4)
        assert fit.left == pytest.approx(left_slowly(families, fit, *rows), rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    m=st.integers(1, 4), s=st.integers(2, 4), taps=st.sampled_from([1, 3]), seed=st.integers(0, 99)
)
def test_a_mix_leaves_less_than_the_intrinsic_map_alone(
    m: int, s: int, taps: int, seed: int
) -> None:
    moments = moments_of(some_families(m, s), *rows_of(m, s, taps, seed))
    left = [fitted(moments, rounds, 1e-6).left for rounds in (0, 1, 12)]
    assert left[0] + 1e-9 >= left[1] >= left[2] - 1e-9
    assert left[2] < left[0]


def test_with_one_tap_a_mix_is_the_principal_component() -> None:
    windows = rows_of(1, 3, 1, seed=5)[0]
    targets = windows[..., 0]
    moments = moments_of(some_families(1, 3), windows, targets)
    values = torch.linalg.eigvalsh(torch.cov(targets))
    found = fitted(moments, 200, 1e-9).left
    assert found == pytest.approx(float(values[:2].sum() / values.sum()), rel=1e-3)


def test_gradient_descent_finds_nothing_better() -> None:
    families, (windows, targets) = some_families(2, 2), rows_of(2, 2, 3, seed=3)
    moments = moments_of(families, windows, targets)
    fit = fitted(moments, 50, 1e-9)
    mixes, kernels = (nn.Parameter(t.clone()) for t in (fit.mixes, fit.kernels))
    seen = (windows - windows.mean(1, keepdim=True))[families.members]
    wanted = (targets - targets.mean(1, keepdim=True))[families.members]
    descent = torch.optim.LBFGS([mixes, kernels], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        made = torch.einsum("ms,msrt->mrt", mixes, seen)
        ghosts = torch.einsum("mrt,mct->mcr", made, kernels)
        maps = torch.cat([made[:, None, :, 1], ghosts], 1)
        gap = (maps - wanted).square().sum() / wanted.square().sum()
        gap.backward()
        return gap

    descent.step(loss)
    assert float(loss()) == pytest.approx(fit.left, rel=1e-3)


def test_a_ghost_that_is_missing_takes_no_part() -> None:
    pairing = Pairing(torch.tensor([0, 2]), torch.tensor([[1], [-1]]), 0.0)
    families, (windows, targets) = Families.of([pairing], 3), rows_of(1, 3, 3, seed=1)
    moments = moments_of(families, windows, targets)
    fit = fitted(moments, 12, 1e-4)
    assert float(fit.mixes[1, 1]) == 0 and not bool(fit.kernels[1].any())
    assert fit.left == pytest.approx(left_slowly(families, fit, windows, targets), rel=1e-6)


def test_maps_that_are_zero_leave_finite_numbers() -> None:
    windows, targets = torch.zeros(4, 10, 3).double(), torch.zeros(4, 10).double()
    moments = moments_of(some_families(2, 2), windows, targets)
    fit = fitted(moments, 12, 1e-4)
    assert bool(fit.mixes.isfinite().all()) and bool(fit.kernels.isfinite().all())


def test_two_maps_share_the_error_as_their_principal_component_does() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(6, 4, 1, groups=2, bias=False))
    with torch.no_grad():  # both maps of a group have one channel in common, and one of their own
        network[0].weight.copy_(
            torch.tensor([[1.0, 1, 0], [1, 0, 1]]).repeat(2, 1)[..., None, None]
        )
    x = torch.randn(64, 6, 8, 8)
    made = ghostify.convert(network, s=2, d=1, costlier=True, calibration=x)
    assert isinstance(made[0], GhostConv2d)
    wanted, found = (
        net(x).detach().transpose(0, 1).flatten(1).unflatten(0, (2, 2)) for net in (network, made)
    )
    for maps, gaps in zip(wanted, found - wanted, strict=True):
        least = float(torch.linalg.eigvalsh(torch.cov(maps))[0])
        errors = gaps.square().mean(1)
        assert float(errors.sum()) == pytest.approx(least, rel=0.02)
        assert float(errors.min()) > 0.4 * least
