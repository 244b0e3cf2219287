"""Networks whose kernels lie in memory with the channels last."""

from __future__ import annotations

from itertools import chain

import torch
from torch import nn
from torch.nn.parameter import is_lazy


def to_channels_last(network: nn.Module) -> None:
    """Lay all tensors of four dimensions out in channels_last, in place.

    As ``network.to(memory_format=torch.channels_last)``, which raises where a network has a tensor
    of five dimensions as well.
    """
    for tensor in chain(network.parameters(), network.buffers()):
        if not is_lazy(tensor) and tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
