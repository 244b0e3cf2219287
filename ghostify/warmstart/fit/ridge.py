"""Ridge least squares: the one place where it is solved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ghostify.warmstart.fit.statistics import RegressionMoments


@dataclass(frozen=True)
class Solution:
    """A fitted linear map, one for each of the groups.

    Attributes:
        weight: ``(groups, outputs, inputs)``.
        intercept: ``(groups, outputs)``.
        residual: Sum of squares that is left, ``(groups, outputs)``.
    """

    weight: Tensor
    intercept: Tensor
    residual: Tensor


def solve(
    moments: RegressionMoments,
    ridge: float | Tensor,
    prior: Tensor | None = None,
    intercept: bool = True,
) -> Solution:
    """Fit a linear map by least squares, drawn to a prior.

    Minimises ``|y - w x - b|^2 + ridge * mean(diag(G)) * |w - prior|^2``, G the Gram matrix of x.

    Args:
        moments: The sums of the data.
        ridge: Weight of the prior, relative to the data's mean energy; one for each regressor,
            ``(inputs,)``, is relative to the mean energy of those with the same one.
        prior: ``(groups, outputs, inputs)``; zero if not given.
        intercept: Whether there is a b.
    """
    if moments.has_few_rows:
        return _solve_rows(moments, ridge, prior, intercept)
    if intercept:
        gram, cross = moments.centred()
    else:
        gram, cross = moments.gram[:, :-1, :-1].clone(), moments.cross[:, :-1]
    pull = _pull(gram.diagonal(dim1=1, dim2=2), ridge)
    gram.diagonal(dim1=1, dim2=2).add_(pull)  # in place: there may be thousands of regressors
    drawn = 0.0 if prior is None else pull[..., None] * prior.transpose(1, 2)
    weight = solve_positive(gram, cross + drawn)
    del gram
    energy = moments.variance() if intercept else moments.energy
    # By the normal equations the Gram matrix times the weights is cross + drawn - pull * weights.
    residual = energy + ((drawn - pull[..., None] * weight - cross) * weight).sum(1)
    offset = torch.zeros_like(moments.energy)
    if intercept:
        offset = _offset(moments, weight)
    return Solution(weight.transpose(1, 2), offset, residual.clamp_min(0))


def _solve_rows(
    moments: RegressionMoments, ridge: float | Tensor, prior: Tensor | None, intercept: bool
) -> Solution:
    """The same from rows that are fewer than the regressors: a system of their number.

    With the pull D: ``w = prior + D^-1 x^T (x D^-1 x^T + 1)^-1 (y - x prior)``.
    """
    rows = moments.rows()
    assert rows is not None
    means = [part.mean(1, keepdim=True) * intercept for part in rows]
    x, y = (part - mean for part, mean in zip(rows, means, strict=True))
    pull = _pull(x.square().sum(1), ridge)[:, None]
    missing = y if prior is None else y - x @ prior.transpose(1, 2)
    if pull.shape[-1] == 1:
        system = moments.row_products(centred=intercept) / pull
    else:
        system = (x / pull) @ x.transpose(1, 2)
    system.diagonal(dim1=1, dim2=2).add_(1)
    left = solve_positive(system, missing)  # also what the weights leave of each row
    weight = (left.transpose(1, 2) @ x) / pull
    weight = weight if prior is None else weight + prior
    offset = means[1] - means[0] @ weight.transpose(1, 2)
    return Solution(weight, offset[:, 0], left.square().sum(1))


def prior_alone(moments: RegressionMoments, prior: Tensor, intercept: bool) -> Solution:
    """The prior as it is, with the offsets that fit it; see `solve`."""
    offset = torch.zeros_like(moments.energy)
    if intercept:
        offset = _offset(moments, prior.transpose(1, 2))
    found = Solution(prior, offset, offset)
    return Solution(prior, offset, unexplained_by(moments, found))


def unexplained_by(moments: RegressionMoments, found: Solution) -> Tensor:
    """Sum of squares that a linear map leaves of some samples, ``(groups, outputs)``."""
    rows = moments.rows()
    if rows is not None:
        made = rows[0] @ found.weight.transpose(1, 2) + found.intercept[:, None]
        return (rows[1] - made).square().sum(1)
    full = torch.cat([found.weight, found.intercept[..., None]], 2).transpose(1, 2)
    left = moments.energy + ((moments.gram @ full - 2 * moments.cross) * full).sum(1)
    return left.clamp_min(0)


def _offset(moments: RegressionMoments, weight: Tensor) -> Tensor:
    """What makes the mean right, ``(groups, outputs)``; weights ``(groups, inputs, outputs)``."""
    inputs, outputs = moments.means()
    return outputs - torch.einsum("gi,gio->go", inputs, weight)


def _pull(energy: Tensor, ridge: float | Tensor) -> Tensor:
    """Ridge of each regressor in the units of its energy, ``(..., inputs or 1)``.

    Args:
        energy: Diagonal of the Gram matrix, ``(..., inputs)``.
        ridge: Relative to its mean; see `solve`.
    """
    if not isinstance(ridge, Tensor):
        return ridge * energy.mean(-1, keepdim=True).clamp_min(1e-12)
    pull = torch.zeros_like(energy)
    for value in ridge.unique():
        kind = ridge == value
        pull[:, kind] = value * energy[:, kind].mean(1, keepdim=True).clamp_min(1e-12)
    return pull


def ridged(gram: Tensor, ridge: float) -> Tensor:
    """Gram matrices ``(..., n, n)`` with a ridge relative to their mean energy."""
    pull = _pull(gram.diagonal(dim1=-2, dim2=-1), ridge)
    return gram + pull[..., None] * torch.eye(gram.shape[-1], dtype=gram.dtype)


def unexplained(gram: Tensor, cross: Tensor, energy: Tensor, ridge: float) -> Tensor:
    """Energy of each target that the regressors leave, ``(..., outputs)``.

    Args:
        gram: Products of the regressors, ``(..., inputs, inputs)``.
        cross: Products of regressors and targets, ``(..., inputs, outputs)``.
        energy: Energy of the targets, ``(..., outputs)``.
        ridge: Relative ridge.
    """
    return energy - (cross * solve_positive(ridged(gram, ridge), cross)).sum(-2)


def map_costs(gram: Tensor, cross: Tensor, energy: Tensor, ridge: float) -> Tensor:
    """Energy of each map that stays unexplained by the windows of each other map.

    Args:
        gram: Second moments of each map's window, ``(n, K, K)``.
        cross: Products of each map's window with all maps, ``(n, K, n)``.
        energy: Energy of each map, ``(n,)``.
        ridge: Relative ridge.

    Returns:
        ``(n, n)``: at ``[i, j]`` the residual of map j, given the window of map i.
    """
    parts = zip(gram.split(128), cross.split(128), strict=True)  # the products are large
    return torch.cat([unexplained(g, c, energy, ridge) for g, c in parts]).clamp_min(0)


def ghost_kernels(
    gram: Tensor, cross: Tensor, intrinsic: Tensor, ghosts: Tensor, ridge: float
) -> Tensor:
    """Kernels of chosen ghosts, by the same least squares as `map_costs`.

    Args:
        gram: Second moments of each map's window, ``(n, K, K)``.
        cross: Products of each map's window with all maps, ``(n, K, n)``.
        intrinsic: Indices of the intrinsic maps, ``(m,)``.
        ghosts: Indices of the ghosts of each, ``(m, copies)``; -1 where there is none.
        ridge: Relative ridge.

    Returns:
        ``(m, copies, K)``; zero where there is no ghost.
    """
    exists = (ghosts >= 0)[..., None]
    wanted = cross[intrinsic[:, None], :, ghosts.clamp_min(0)] * exists
    return solve_positive(ridged(gram, ridge)[intrinsic], wanted.transpose(1, 2)).transpose(1, 2)


def solve_positive(matrix: Tensor, wanted: Tensor) -> Tensor:
    """Solve ``matrix @ x = wanted`` for symmetric positive matrices ``(..., n, n)``."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():  # rounding has made it indefinite
        return torch.linalg.solve(matrix, wanted)
    return torch.cholesky_solve(wanted, factor)


def inverse_positive(gram: Tensor, ridge: float) -> Tensor:
    """Invert ``(n, n)`` with as much of a ridge as it takes: constant maps leave rounding alone."""
    pull = ridge * gram.diagonal().abs().mean().clamp_min(1e-12)
    eye = torch.eye(len(gram), dtype=gram.dtype)
    while True:
        factor, failed = torch.linalg.cholesky_ex(gram + pull * eye)
        if not failed:
            return torch.cholesky_inverse(factor)
        pull = 10 * pull
