"""Cheap kernels that spend nothing on what an activation hides."""

from __future__ import annotations

from math import inf

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import ghostify
from ghostify.warmstart.c_ghost.activated import past_activation
from ghostify.warmstart.c_ghost.batches import _active_before
from ghostify.warmstart.c_ghost.families import Families, FamilyFit, FamilyMoments
from ghostify.warmstart.c_ghost.pairing import Pairing
from ghostify.warmstart.fit.targets import Targets

ROWS = 200


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_rows(n: int, taps: int, seed: int) -> tuple[Tensor, Targets]:
    """Windows, and targets of which about half are hidden."""
    windows = draw(1, ROWS, taps, seed=seed) + draw(n, ROWS, taps, seed=seed + 1)
    wanted = windows[..., taps // 2] + 0.5 * draw(n, ROWS, seed=seed + 2)
    low = 0.3 * draw(n, 1, seed=seed + 3)
    return windows, Targets.within(wanted, low, torch.full_like(low, float("inf")))


def both_fits(m: int, s: int, rows: tuple[Tensor, Targets]) -> tuple[Families, list[FamilyFit]]:
    """By least squares, and past the activation."""
    maps = torch.arange(m * s).view(m, s)
    families = Families.of([Pairing(maps[:, 0], maps[:, 1:], 0.0)], m * s)
    means = rows[0].mean(1), rows[1].wanted.mean(1)
    moments = FamilyMoments.of(families, [rows], means)
    given = moments.given(moments.mixes())
    fits = [x.fitted(1e-9) for x in (given, past_activation(given, families, [rows]))]
    return families, fits


def left_slowly(families: Families, fit: FamilyFit, rows: tuple[Tensor, Targets]) -> float:
    """Make each map of each family; compare what the activation lets through."""
    windows, targets = rows
    assert targets.least is not None and targets.most is not None
    gap = energy = 0.0
    for row, maps in enumerate(families.members.tolist()):
        seen = sum(part * windows[i] for part, i in zip(fit.mixes[row], maps, strict=True))
        for place, i in enumerate(maps):
            made = seen[:, seen.shape[1] // 2] if place == 0 else seen @ fit.kernels[row, place - 1]
            made = made + fit.offsets[row, place]
            for value, least, most in zip(made, targets.least[i], targets.most[i], strict=True):
                gap += float(max(least - value, value - most, torch.tensor(0.0)) ** 2)
            visible = targets.wanted[i].where(targets.least[i].isfinite(), targets.most[i])
            energy += float((visible - visible.mean()).square().sum())
    return gap / energy


@settings(deadline=None, max_examples=15)
@given(
    m=st.integers(1, 3), s=st.integers(2, 3), taps=st.sampled_from([1, 3]), seed=st.integers(0, 99)
)
def test_less_is_left_of_what_is_seen(m: int, s: int, taps: int, seed: int) -> None:
    rows = some_rows(m * s, taps, seed)
    families, (plain, found) = both_fits(m, s, rows)
    before, after = (left_slowly(families, fit, rows) for fit in (plain, found))
    assert after < before
    # The targets are those nearest to the round before: what is left of them is more, by little.
    assert after <= found.left * (1 + 1e-6) <= 1.03 * after


def test_gradient_descent_finds_little_better() -> None:
    rows = some_rows(4, 3, seed=7)
    families, (_, fit) = both_fits(2, 2, rows)
    windows, targets = rows
    seen = torch.einsum("ms,msrt->mrt", fit.mixes, windows[families.members])
    kernels, offsets = (nn.Parameter(t.clone()) for t in (fit.kernels, fit.offsets))
    descent = torch.optim.LBFGS([kernels, offsets], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        descent.zero_grad()
        ghosts = torch.einsum("mrt,mct->mcr", seen, kernels)
        made = torch.cat([seen[:, None, :, 1], ghosts], 1) + offsets[..., None]
        made = made.flatten(0, 1)
        gap = (targets.nearest(made) - made).square().sum()
        gap.backward()
        return gap

    start = loss().item()
    descent.step(loss)
    assert loss().item() == pytest.approx(start, rel=0.01)


class Block(nn.Module):
    """A residual block: its sum goes through a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)
        self.conv2, self.bn2 = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(out)) + x)


def some_block(seed: int) -> Block:
    """With norms that turn some channels around, and whose zeros lie anywhere."""
    torch.manual_seed(seed)
    block = Block().eval()
    for norm in (block.bn1, block.bn2):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias, mean=-0.5, std=0.3)
        nn.init.normal_(norm.running_mean, std=0.1)
        nn.init.uniform_(norm.running_var, 0.1, 1)
    return block


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bounds_before_a_norm_and_a_sum_are_those_of_the_activation(seed: int) -> None:
    norm = some_block(seed).bn2
    with torch.no_grad():
        norm.weight[3] = 0  # constant, so there are no bounds
    wanted, made, added = draw(3, 40, 7, 8, seed=seed).float()
    for active in ((0.0, inf), (0.0, 6.0), (-3.0, inf)):
        nearest = Targets.within(wanted, *_active_before(norm, active, added)).nearest(made)
        after = [norm(x.movedim(2, 1)[..., None])[..., 0].movedim(1, 2) for x in (nearest, wanted)]
        seen = [(x + added).clamp(*active) for x in after]
        torch.testing.assert_close(*seen, atol=1e-5, rtol=1e-5)
        assert torch.equal(nearest[..., 3], wanted[..., 3])


def smooth_images(count: int) -> Tensor:
    """As a layer inside a network gets them: neighbouring values are alike, none is negative."""
    return F.avg_pool2d(5 * torch.randn(count, 8, 14, 14), 5, 1).relu()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_block_keeps_more_than_without_its_activations(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    block, x, unseen = some_block(seed), smooth_images(256), smooth_images(64)
    errors = []
    for is_known in (True, False):
        if not is_known:
            name = "ghostify.warmstart.c_ghost.batches.active_between"
            monkeypatch.setattr(name, lambda *_: None)
        made = ghostify.convert(block, s=4, calibration=x, costlier=True)
        with torch.no_grad():
            errors.append(float((made(unseen) - block(unseen)).square().mean()))
    assert errors[0] < 0.985 * errors[1]


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_a_layer_that_is_hidden_altogether_lacks_nothing(bias: float) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    network = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 4, 1)).eval()
    assert isinstance(network[1], nn.BatchNorm2d)
    nn.init.constant_(network[1].bias, bias)
    made = ghostify.convert(network, keep=["3"], calibration=smooth_images(64))
    (row,) = ghostify.report(made).replaced
    assert row.error == row.held_out == 0
    x = smooth_images(8)
    torch.testing.assert_close(made(x), network(x), atol=1e-4, rtol=1e-4)
