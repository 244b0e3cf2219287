"""Losses that compare a student's outputs with its teacher's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ghostify.numerics.nested import floats_in

Reduce = Callable[[Tensor], Tensor]
"""The mean of a tensor over all processes."""


def distillation(made: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """Divergence of the softened class scores, times the temperature squared (Hinton et al.).

    Args:
        made: The student's logits, ``(N, classes)``.
        wanted: The teacher's.
        temperature: By which both are divided.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> float(distillation(logits, logits, 4.0))
        0.0
    """
    student, teacher = (F.log_softmax(x.float() / temperature, dim=1) for x in (made, wanted))
    divergence = F.kl_div(student, teacher, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def difference(made: Any, wanted: Any, reduce: Reduce = lambda energy: energy) -> Tensor:
    """Energy of the difference as a part of the wanted energy, the mean over all tensors.

    Args:
        made: Tensors of the student, nested in any way.
        wanted: The teacher's, likewise.
        reduce: For the wanted energies, where other processes have other images.

    Example:
        >>> float(difference(torch.zeros(2, 3), torch.ones(2, 3)))
        1.0
    """
    both = zip(floats_in(made), floats_in(wanted), strict=True)
    pairs = [(a.float(), b.float()) for a, b in both]
    energy = reduce(torch.stack([b.square().mean() for _, b in pairs])).clamp_min(1e-12)
    # One kernel back and forth: written out it is as much work as a convolution of the maps.
    return (torch.stack([F.mse_loss(a, b) for a, b in pairs]) / energy).mean()
