"""Networks judged by how far their outputs are from the original's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ghostify.distributed import sum_over_processes
from ghostify.tuning.losses import difference
from ghostify.warmstart.reconstruct import comparable


@torch.no_grad()
def distances(networks: int, batches: Iterable[tuple[Any, Sequence[Any]]]) -> list[float] | None:
    """Energy of each network's difference to the original, as a part of the output's energy.

    Args:
        networks: How many there are.
        batches: The original's output of each batch, and theirs.

    Returns:
        The mean over all processes' batches; None where outputs can't be compared.
    """
    sums, count = torch.zeros(networks, dtype=torch.float64), torch.zeros(())
    for wanted, made in batches:
        if all(comparable(output, wanted) for output in made):
            sums += torch.stack([difference(output, wanted).double().cpu() for output in made])
            count += 1
    sum_over_processes(sums, count)
    return (sums / count).tolist() if count else None
