"""Muon: momentum whose steps go through all directions of a matrix alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = 3.4445, -4.7750, 2.0315
"""Of a Newton-Schulz step; five of them bring most singular values to between 0.7 and 1.2."""

LARGEST = 2048
"""Rows or columns, whichever are fewer, of the matrices that are made orthogonal: the products for
an AlexNet's classifier would cost more than all the rest of a step."""

SMALLEST = 0.01
"""Norm of a row that weights are taken to have at least: a part of zero would lead nowhere."""


class Muon(torch.optim.Optimizer):
    """Nesterov's momentum, made orthogonal for matrices (Jordan et al., "Muon", 2024).

    A kernel ``(n, c, ...)`` is a matrix of n rows. Its step is the momentum with all singular
    values made alike, of the part ``lr`` of the norm of the weights: what few images say about a
    rare direction counts as much as what all say about the common ones. Where there is no matrix
    (vectors, depth-wise kernels) or one of more than `LARGEST` rows and columns, the step is
    ``lr`` times the momentum, as in SGD.

    Args:
        params: Parameters, or groups of them.
        lr: Learning rate.
        momentum: Part of the steps before that is kept.
        weight_decay: Part of the weights that is taken off at each step, times ``lr``.

    Example:
        >>> weight = torch.nn.Parameter(torch.eye(2))
        >>> (weight * torch.tensor([[100.0, 0.0], [0.0, 50.0]])).sum().backward()
        >>> Muon([weight], lr=0.1).step()
        >>> [round(value, 1) for value in weight.detach().diag().tolist()]
        [0.9, 0.9]
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 0.02,
        momentum: float = 0.8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Do one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            rate, decay = group["lr"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    step = self._step_of(parameter, group["momentum"])
                    parameter.mul_(1 - rate * decay).sub_(step * rate)
        return loss

    def _step_of(self, parameter: Tensor, momentum: float) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(momentum).add_(parameter.grad)
        ahead = parameter.grad + momentum * buffer
        if not is_matrix(parameter):
            return ahead
        step = orthogonal(ahead.flatten(1)).view_as(parameter)
        norm = parameter.norm().clamp_min(SMALLEST * len(parameter) ** 0.5)
        return step * (norm / step.norm().clamp_min(1e-12))


def is_matrix(parameter: Tensor) -> bool:
    """Whether rows share their inputs (those of a depth-wise kernel don't), and are not too many.

    Example:
        >>> [is_matrix(torch.zeros(8, c, 3, 3)) for c in (4, 1)], is_matrix(torch.zeros(4096, 9216))
        ([True, False], False)
    """
    if parameter.ndim < 2 or parameter.shape[1] == 1:
        return False
    return min(parameter.shape[0], parameter.shape[1:].numel()) <= LARGEST


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """About the orthogonal matrix that is nearest: its singular vectors, singular values near 1.

    Args:
        matrix: ``(rows, columns)``, complex ones too.
        steps: Newton-Schulz steps.
    """
    a, b, c = COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.mH if is_tall else matrix
    found = found / found.norm().clamp_min(1e-12)
    for _ in range(steps):
        square = found @ found.mH
        found = a * found + (b * square + c * square @ square) @ found
    return found.mH if is_tall else found
