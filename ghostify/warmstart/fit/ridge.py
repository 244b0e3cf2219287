"""Ridge least squares: filters, cheap kernels, and what one map says of another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ghostify.warmstart.c_ghost.pairing import Pairing
from ghostify.warmstart.fit.statistics import Moments


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
    moments: Moments, ridge: float, prior: Tensor | None = None, intercept: bool = True
) -> Solution:
    """The linear map of least squares, drawn to a prior.

    Minimises ``|y - w x - b|^2 + ridge * mean(diag(G)) * |w - prior|^2``, G the Gram matrix of x.

    Args:
        moments: The sums of the data.
        ridge: Weight of the prior, relative to the data's mean energy.
        prior: ``(groups, outputs, inputs)``; zero if not given.
        intercept: Whether there is a b.
    """
    if intercept:
        gram, cross = moments.centred()
    else:
        gram, cross = moments.gram[:, :-1, :-1].clone(), moments.cross[:, :-1]
    pull = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)[:, None]
    gram.diagonal(dim1=1, dim2=2).add_(pull)  # in place: there may be thousands of regressors
    drawn = 0.0 if prior is None else pull[..., None] * prior.transpose(1, 2)
    weight = solve_positive(gram, cross + drawn)
    del gram
    energy = moments.variance() if intercept else moments.energy
    # By the normal equations the Gram matrix times the weights is cross + drawn - pull * weights.
    residual = energy + ((drawn - pull[..., None] * weight - cross) * weight).sum(1)
    offset = torch.zeros_like(moments.energy)
    if intercept:
        means = moments.gram[:, :-1, -1] / max(moments.count, 1)
        offset = moments.cross[:, -1] / max(moments.count, 1)
        offset = offset - torch.einsum("gi,gio->go", means, weight)
    return Solution(weight.transpose(1, 2), offset, residual.clamp_min(0))


def explain(gram: Tensor, cross: Tensor, energy: Tensor, ridge: float) -> Tensor:
    """How much of each map stays unexplained by the windows of each other map.

    Args:
        gram: Second moments of each map's window, ``(n, K, K)``.
        cross: Products of each map's window with all maps, ``(n, K, n)``.
        energy: Energy of each map, ``(n,)``.
        ridge: Relative ridge.

    Returns:
        ``(n, n)``: at ``[i, j]`` the residual of map j, given the window of map i.
    """
    pull = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
    rows = []
    for some in torch.arange(len(gram)).split(128):  # some at a time: the products are large
        ridged = gram[some] + pull[some, None, None] * eye
        rows.append(energy - (cross[some] * solve_positive(ridged, cross[some])).sum(1))
    return torch.cat(rows).clamp_min(0)


def choose(gram: Tensor, cross: Tensor, pairing: Pairing, ridge: float) -> Tensor:
    """The kernels of the chosen ghosts, by the same least squares as `explain`.

    Returns:
        ``(m, copies, K)``; zero where an intrinsic map has one ghost fewer.
    """
    own, made = pairing.intrinsic, pairing.ghosts >= 0
    pull = ridge * gram.diagonal(dim1=1, dim2=2).mean(1).clamp_min(1e-12)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype)
    wanted = cross[own[:, None], :, pairing.ghosts.clamp_min(0)] * made[..., None]
    kernel = solve_positive((gram + pull[:, None, None] * eye)[own], wanted.transpose(1, 2))
    return kernel.transpose(1, 2)


def solve_positive(matrix: Tensor, wanted: Tensor) -> Tensor:
    """Solve ``matrix @ x = wanted`` for symmetric positive matrices ``(..., n, n)``."""
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed.any():  # rounding has made it indefinite
        return torch.linalg.solve(matrix, wanted)
    return torch.cholesky_solve(wanted, factor)
