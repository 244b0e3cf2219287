"""What a caller's own contexts would change in our numbers, kept out while a verb runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from ghostify.numerics.random_state import keep_random_state

DEVICES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def own_surroundings() -> Iterator[None]:
    """Compute as if the caller had opened no context; a decorator too.

    Random state stays as it was. `torch.autocast` is off: it keeps copies of weights, which a fit
    changes in place. `torch.inference_mode` is off: what is made can be trained. A default
    device without data is the CPU.

    Example:
        >>> with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16), own_surroundings():
        ...     x = torch.ones(1, 1) @ torch.ones(1, 1)
        >>> x.dtype, x.is_inference()
        (torch.float32, False)
    """
    with ExitStack() as stack:
        stack.enter_context(keep_random_state())
        stack.enter_context(torch.inference_mode(False))
        if torch.get_default_device().type == "meta":
            stack.enter_context(torch.device("cpu"))
        for device in DEVICES:
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
