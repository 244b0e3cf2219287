"""Maps that are not concatenated: each part goes its own way through what keeps channels apart."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

BY_CHANNEL: frozenset[Any] = frozenset(
    {F.relu, F.relu6, F.leaky_relu, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.elu, F.mish,
     F.hardtanh, F.dropout, F.dropout2d, torch.relu, torch.relu_, torch.sigmoid, torch.tanh,
     F.max_pool2d, F.avg_pool2d}
)  # fmt: skip
"""Functions that are done on each part: their first argument is the maps."""

ENDS: frozenset[Any] = frozenset({F.adaptive_avg_pool2d})
"""Functions that make maps so small that they are concatenated afterwards."""

JOINS: frozenset[Any] = frozenset({torch.add})
"""Functions of two values that are done part by part, where both come in the same parts."""

SCALES: frozenset[Any] = frozenset({torch.mul, Tensor.mul, Tensor.__mul__, Tensor.__rmul__})
"""Functions of two values of which the second may be a factor for each channel."""

MEANS: frozenset[Any] = frozenset({torch.mean, Tensor.mean})
"""Functions that make maps as small, where they are told to take the mean over a map's places."""

OPERATORS = (
    "getitem", "setitem", "len", "iter", "bool", "float", "int", "neg", "pos", "abs", "invert",
    "lt", "le", "gt", "ge", "rsub", "rtruediv", "rfloordiv", "rmod", "rpow", "rmatmul",
    *(f"{place}{name}" for place in ("", "i") for name in ("sub", "truediv", "floordiv",
                                                           "mod", "pow")), "matmul",
)  # fmt: skip
"""What Python looks up in the class, not in the object: of the concat, as any other attribute."""


class MapsApart:
    """Maps in several tensors, ``(N, C_i, ...)``: what a concat would give, without it.

    Functions that keep channels apart are done on each part; whatever else takes the maps, or asks
    them for something, gets the concat.

    Args:
        parts: The parts, one after another along dimension 1.
        sizes: Channels of each.
    """

    def __init__(self, parts: Iterable[Tensor], sizes: Sequence[int]) -> None:
        self.parts, self.sizes = tuple(parts), tuple(sizes)

    def whole(self) -> Tensor:
        """The concat; the parts are views of it from now on, so that changes in place are seen."""
        joined = torch.cat(self.parts, dim=1)
        self.parts = tuple(split_channels(joined, self.sizes))
        return joined

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Do a function on each part, or on the concat."""
        kwargs = kwargs or {}
        first, rest = args[0] if args else None, args[1:]
        alone = not any(isinstance(value, MapsApart) for value in (*rest, *kwargs.values()))
        is_mean = function in MEANS and are_places(*rest, **kwargs)
        is_by_part = is_mean or function in BY_CHANNEL | ENDS
        if is_by_part and isinstance(first, MapsApart) and alone:
            made = cls([function(part, *rest, **kwargs) for part in first.parts], first.sizes)
            return made if function in BY_CHANNEL else made.whole()
        if function in JOINS and not kwargs and _are_alike(args):
            pairs = zip(args[0].parts, args[1].parts, strict=True)
            return cls([function(*pair) for pair in pairs], args[0].sizes)
        if function in SCALES and len(args) == 2 and not kwargs:
            scaled = _scaled(*args)
            if scaled is not None:
                return scaled
        args, kwargs = pytree.tree_map(whole_of, (args, dict(kwargs)))
        return function(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name in ("parts", "sizes"):  # not there yet: as a copy is made
            raise AttributeError(name)
        return getattr(self.whole(), name)

    def __fx_create_arg__(self, tracer: Any) -> Any:
        """What a graph that is traced of them has: the concat."""
        return tracer.create_arg(self.whole())

    def __add__(self, other: Any) -> Any:
        return torch.add(self, other)  # type: ignore[call-overload]

    def __radd__(self, other: Any) -> Any:
        return torch.add(other, self)  # type: ignore[call-overload]

    def __mul__(self, other: Any) -> Any:
        return torch.mul(self, other)  # type: ignore[arg-type]

    def __rmul__(self, other: Any) -> Any:
        return torch.mul(other, self)  # type: ignore[arg-type]

    def __imul__(self, other: Any) -> Any:
        factors = _factors(self, other)
        if factors is None:
            return self.whole().mul_(whole_of(other))
        for own, factor in zip(self.parts, factors, strict=True):
            own.mul_(factor)
        return self

    def mean(self, *args: Any, **kwargs: Any) -> Any:
        """The mean, of each part where it is over the places of the maps."""
        return torch.mean(self, *args, **kwargs)  # type: ignore[call-overload]

    def __iadd__(self, other: Any) -> Any:
        if not _are_alike((self, other)):
            return self.whole().add_(whole_of(other))
        for own, added in zip(self.parts, other.parts, strict=True):
            own.add_(added)
        return self


def _of_the_whole(name: str) -> Callable[..., Any]:
    def operate(self: MapsApart, *others: Any) -> Any:
        return getattr(self.whole(), name)(*map(whole_of, others))

    return operate


for _name in OPERATORS:
    setattr(MapsApart, f"__{_name}__", _of_the_whole(f"__{_name}__"))


def split_channels(whole: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """Views of some channels each, one after another."""
    start = 0
    for size in sizes:
        yield whole.narrow(1, start, size)
        start += size


def whole_of(value: Any) -> Any:
    """The concat of maps apart; anything else as it is."""
    return value.whole() if isinstance(value, MapsApart) else value


def _are_alike(values: Sequence[Any]) -> bool:
    """Whether two values are maps in the same parts."""
    both = [value for value in values if isinstance(value, MapsApart)]
    return len(both) == len(values) == 2 and both[0].sizes == both[1].sizes


def _scaled(one: Any, other: Any) -> MapsApart | None:
    """A product of maps apart and of a factor for each channel, or for all; None for any other."""
    maps, factor = (one, other) if isinstance(one, MapsApart) else (other, one)
    factors = _factors(maps, factor)
    if factors is None:
        return None
    pairs = zip(maps.parts, factors, strict=True)
    return MapsApart([torch.mul(*pair) for pair in pairs], maps.sizes)


def _factors(maps: MapsApart, factor: Any) -> list[Any] | None:
    """What each part is multiplied by, where a factor can be told by parts."""
    if isinstance(factor, bool | int | float):
        return [factor] * len(maps.parts)
    if not isinstance(factor, Tensor) or factor.dim() != maps.parts[0].dim():
        return None
    if factor.shape[1] == sum(maps.sizes):
        return list(split_channels(factor, maps.sizes))
    return [factor] * len(maps.parts) if factor.shape[1] == 1 else None


def are_places(
    dim: Any = None, keepdim: bool = False, *others: Any, axis: Any = None, **more: Any
) -> bool:
    """Whether what a mean is told is to take it over the places of maps ``(N, C, H, W)``."""
    dims = axis if dim is None else dim
    is_two = isinstance(dims, list | tuple) and len(dims) == 2 and not others and not more
    return is_two and all(isinstance(d, int) for d in dims) and {d % 4 for d in dims} == {2, 3}
