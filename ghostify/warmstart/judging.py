"""Networks judged by how far their outputs are from the original's."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ghostify.distributed import sum_over_processes
from ghostify.graph.calls import call
from ghostify.tuning.losses import difference
from ghostify.warmstart.reconstruct import comparable


@torch.no_grad()
def distances(
    networks: Sequence[nn.Module], original: nn.Module, batches: Iterable[Any]
) -> list[float] | None:
    """Energy of each network's difference to the original, as a part of the output's energy.

    Args:
        networks: In eval mode.
        original: Likewise.
        batches: What they take.

    Returns:
        The mean over all processes' batches; None where outputs can't be compared.
    """
    sums, count = torch.zeros(len(networks), dtype=torch.float64), torch.zeros(())
    for x in batches:
        wanted = call(original, x)
        made = [call(network, x) for network in networks]
        if all(comparable(output, wanted) for output in made):
            sums += torch.stack([difference(output, wanted).double().cpu() for output in made])
            count += 1
    sum_over_processes(sums, count)
    return (sums / count).tolist() if count else None
