"""Checks that numbers from outside are numbers, where they enter."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.nn.parameter import is_lazy

from ghostify.errors import GhostifyError
from ghostify.numerics.nested import floats_in

LARGEST = 1e12
"""Values from which the sums of a network's layers no longer fit into single precision."""


def check_pixels(
    images: Tensor, what: str, error: type[GhostifyError], places: bool = False
) -> None:
    """Raise where images hold values that no network can compute with.

    Args:
        images: Any numbers.
        what: Their name in the message.
        error: What to raise.
        places: Whether the first dimension counts images, of which the first bad one is named.
    """
    if not images.dtype.is_floating_point and not images.dtype.is_complex:
        return
    usable = images.detach().abs() <= LARGEST  # not a number is not less either
    if usable.all():
        return
    if places:
        good = usable.flatten(1).all(1)
        first = int((~good).nonzero()[0])
        what, images, usable = f"{what} {first}", images[first], usable[first]
    worst = images.detach()[~usable].flatten()[0].item()
    raise error(
        f"{what} holds {worst:.4g}, and values must be finite and at most {LARGEST:.0e}: "
        "leave it out, or normalise the images."
    )


def check_values(value: Any, what: str, error: type[GhostifyError]) -> None:
    """Raise where several inputs hold values that no network can compute with.

    A mask may hold -inf, or the least number of its type: masks are the tensors that hold nothing
    else but zero, and whatever stands after the first tensor of floating-point numbers.

    Args:
        value: Tensors, nested in any way.
        what: Their name in the message.
        error: What to raise.
    """
    for place, tensor in enumerate(floats_in(value)):
        values = tensor.detach()
        low = values < -LARGEST
        is_mask = bool(low.any()) and (place > 0 or not values[~low].any())
        check_pixels(values.masked_fill(low, 0.0) if is_mask else values, what, error)


def non_finite(values: Iterable[tuple[str, Any]]) -> list[str]:
    """Names of the tensors that hold a value that is not finite."""
    return [
        name
        for name, tensor in values
        if isinstance(tensor, Tensor)
        and not is_lazy(tensor)
        and (tensor.dtype.is_floating_point or tensor.dtype.is_complex)
        and not tensor.is_meta
        and not tensor.detach().isfinite().all()
    ]
