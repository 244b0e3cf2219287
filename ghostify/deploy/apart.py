"""Maps that are not concatenated: each part goes its own way, and convolutions add up what they
make of each.

A concat copies all its maps. Where convolutions read them it can be left out: a convolution of
several parts is the sum of a convolution of each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from ghostify.deploy.ghosts import FusedGhost, like_convolution

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

OPERATORS = (
    "getitem", "setitem", "len", "iter", "bool", "float", "int", "neg", "pos", "abs", "invert",
    "lt", "le", "gt", "ge", "rsub", "rmul", "rtruediv", "rfloordiv", "rmod", "rpow", "rmatmul",
    *(f"{place}{name}" for place in ("", "i") for name in ("sub", "mul", "truediv", "floordiv",
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
        self.parts = tuple(_split(joined, self.sizes))
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
        if function in BY_CHANNEL | ENDS and isinstance(first, MapsApart) and alone:
            made = cls([function(part, *rest, **kwargs) for part in first.parts], first.sizes)
            return made.whole() if function in ENDS else made
        if function in JOINS and not kwargs and _are_alike(args):
            pairs = zip(args[0].parts, args[1].parts, strict=True)
            return cls([function(*pair) for pair in pairs], args[0].sizes)
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


def _split(whole: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
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


class GhostApart(FusedGhost):
    """A fused ghost module that does not concatenate what it makes."""

    @classmethod
    def of(cls, ghost: FusedGhost) -> GhostApart:
        """The same module without its concat; it shares its parts."""
        made = cls(ghost.primary, list(ghost.cheap), ghost.gives)  # type: ignore[arg-type]
        made.norm = ghost.norm
        return like_convolution(made, ghost)

    def forward(self, x: Any, output_size: list[int] | None = None) -> Any:
        """``(N, in_channels, ...)`` to maps apart."""
        return MapsApart(self.made_of(x, output_size), self.sizes)


class _OfParts(nn.Module):
    """One convolution for each part of the maps.

    Args:
        convs: Of each part.
        like: The convolution that reads them all: its settings may be asked for.
    """

    def __init__(self, convs: Sequence[_ConvNd], like: _ConvNd) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.sizes = tuple(conv.in_channels for conv in convs)
        like_convolution(self, like)

    def made_of(self, x: Any) -> list[Tensor]:
        """What each convolution makes of its part."""
        is_apart = isinstance(x, MapsApart) and x.sizes == self.sizes
        parts = x.parts if is_apart else _split(whole_of(x), self.sizes)
        return [conv(part) for conv, part in zip(self.convs, parts, strict=True)]


class SummedConv(_OfParts):
    """A convolution of maps apart: the sum of a convolution of each part.

    Shape:
        - Input: maps apart, or ``(N, in_channels, ...)``
        - Output: ``(N, out_channels, ...)``
    """

    @classmethod
    def of(cls, conv: _ConvNd, sizes: Sequence[int]) -> SummedConv:
        """The sum that a convolution is.

        Args:
            conv: A convolution of one group that is not transposed.
            sizes: Channels of each part.
        """
        weights = conv.weight.detach().split(list(sizes), dim=1)
        convs: list[_ConvNd] = []
        for weight in weights:  # the first adds the bias
            bias = conv.bias if not convs else None
            made = _convolution(conv, weight.shape[1], conv.out_channels, 1, bias is not None)
            convs.append(_filled(made, weight, bias))
        return cls(convs, conv)

    def forward(self, x: Any) -> Tensor:
        """Maps apart to ``(N, out_channels, ...)``."""
        out, *others = self.made_of(x)
        for other in others:
            out += other
        return out


class DepthwiseApart(_OfParts):
    """A depth-wise convolution of maps apart.

    Shape:
        - Input: maps apart, or ``(N, in_channels, ...)``
        - Output: maps apart
    """

    @classmethod
    def of(cls, conv: _ConvNd, sizes: Sequence[int]) -> DepthwiseApart:
        """A depth-wise convolution part by part.

        Args:
            conv: A depth-wise convolution that makes one map of each.
            sizes: Channels of each part.
        """
        weights = conv.weight.detach().split(list(sizes))
        biases = [None] * len(weights) if conv.bias is None else conv.bias.split(list(sizes))
        convs = [
            _filled(_convolution(conv, size, size, size, bias is not None), weight, bias)
            for size, weight, bias in zip(sizes, weights, biases, strict=True)
        ]
        return cls(convs, conv)

    def forward(self, x: Any) -> MapsApart:
        """Maps apart to maps apart."""
        return MapsApart(self.made_of(x), self.sizes)


class Joined(nn.Module):
    """Concatenates maps apart; passes on anything else."""

    def forward(self, x: Any) -> Any:
        """Maps apart to ``(N, C, ...)``."""
        return whole_of(x)


class AsTuple(nn.Module):
    """Gives maps apart as a tuple; passes on anything else."""

    def forward(self, x: Any) -> Any:
        """Maps apart to ``(N, C_i, ...)`` each."""
        return x.parts if isinstance(x, MapsApart) else x


def _convolution(
    like: _ConvNd, in_channels: int, out_channels: int, groups: int, bias: bool
) -> _ConvNd:
    """A convolution with other channels."""
    kind: type[Any] = type(like)
    made: _ConvNd = kind(
        in_channels, out_channels, like.kernel_size, like.stride, like.padding, like.dilation,
        groups, bias, like.padding_mode, device=like.weight.device, dtype=like.weight.dtype,
    )  # fmt: skip
    return made.requires_grad_(like.weight.requires_grad)


@torch.no_grad()
def _filled(conv: _ConvNd, weight: Tensor, bias: Tensor | None) -> _ConvNd:
    conv.weight.copy_(weight)
    if conv.bias is not None and bias is not None:
        conv.bias.copy_(bias)
    return conv
