"""Fusing a norm into a ghost module, for code that knows convolutions alone.

Such code (`torch.nn.utils.fuse_conv_bn_eval`, ultralytics' ``fuse``) reads ``conv.weight``, makes
of it a weight with each filter scaled, and puts that back; the norm's shift becomes ``conv.bias``.
A ghost module has no weight of that shape. It gives a stand-in, to which only what scales filters
can be done: when it comes back, the scale is folded into the module (`fold`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.errors import GhostifyError
from ghostify.nn.filters import filters_of, is_transposed, weight_of

SMALLEST = 1e-3
"""Scales below this part of the largest are not divided by."""

PLAIN = (
    nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d,
    nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d,
)  # fmt: skip
"""Layers whose weight is what they compute with; a subclass may make its own of it."""

SCALING = frozenset(
    {
        "view", "view_as", "reshape", "flatten", "unflatten", "transpose", "permute", "movedim",
        "contiguous", "squeeze", "unsqueeze", "clone", "to", "float", "double", "half", "bfloat16",
        "type", "cpu", "mul", "__mul__", "__rmul__", "multiply", "div", "__truediv__",
        "true_divide", "divide", "mm", "matmul", "__matmul__", "__rmatmul__", "einsum",
    }
)  # fmt: skip
"""Functions of tensors that keep a weight a weight, or make each filter a multiple of itself."""

IN_PLACE = frozenset({"copy_", "mul_", "__imul__", "div_", "__itruediv__", "multiply_"})


class NotAWeightError(GhostifyError):
    """A ghost module's weight is asked for its values, which it doesn't have.

    Attributes:
        obj: The ghost module.
    """

    def __init__(self, ghost: nn.Module, what: str) -> None:
        kind = type(ghost).__name__
        super().__init__(
            f"{kind} has no single 'weight' to compute with ({what}): it computes its output from "
            "`primary.weight` and `cheap.weight`; call the module, or scale the weight filter by "
            "filter and put it back, as what fuses a norm does."
        )
        self.obj = ghost


class WeightStandIn(Tensor):
    """What a ghost module gives in place of a weight: two random tensors of its shape.

    What is done to it is done to both. When it is put back, each filter must be a multiple of what
    it was, the same in both: so that it is known that filters were scaled and nothing else.

    Args:
        ghost: The module whose weight it stands for.
        probes: Both tensors.
        is_own: Whether changing it in place changes the module.
    """

    ghost: Fusable
    probes: tuple[Tensor, ...]
    is_own: bool

    @staticmethod
    def __new__(
        cls: type[WeightStandIn],
        ghost: Fusable,
        probes: tuple[Tensor, ...],
        is_own: bool = False,
    ) -> WeightStandIn:
        """A tensor without values."""
        like = probes[0]
        made = Tensor._make_wrapper_subclass(
            cls, like.shape, dtype=ghost.primary.weight.dtype, device=ghost.primary.weight.device
        )
        made.ghost, made.probes, made.is_own = ghost, probes, is_own
        return made

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"<stand-in for the weight {tuple(self.shape)} of a {type(self.ghost).__name__}>"

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Do to the probes what keeps filters apart; refuse all else."""
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        first = args[0] if args else None
        if isinstance(first, WeightStandIn) and func == Tensor.data.__get__:  # type: ignore[attr-defined]
            return first
        if isinstance(first, WeightStandIn) and func == Tensor.data.__set__:  # type: ignore[attr-defined]
            return first.put_back(args[1])
        if name in ("requires_grad_", "detach") and isinstance(first, WeightStandIn):
            return cls(first.ghost, first.probes, first.is_own)
        if name in SCALING:
            return cls._scaled(func, args, kwargs)
        if name in IN_PLACE and isinstance(first, WeightStandIn):
            made = args[1] if name == "copy_" else cls._scaled(_OUT_OF_PLACE[name], args, kwargs)
            first.put_back(made)
            return first
        if name in _ASKING:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        raise NotAWeightError(next(_stand_ins(args, kwargs)).ghost, name)

    @classmethod
    @torch.no_grad()
    def _scaled(cls, func: Callable[..., Any], args: Any, kwargs: Any) -> WeightStandIn:
        found = list(_stand_ins(args, kwargs))
        if len(found) != 1:
            raise NotAWeightError(found[0].ghost, "a product of two weights")
        made = []
        for place in range(len(found[0].probes)):

            def probe(value: Any, place: int = place) -> Any:
                if isinstance(value, WeightStandIn):
                    return value.probes[place]
                if isinstance(value, Tensor) and value.is_floating_point():
                    return value.detach().double()
                keeps = isinstance(value, torch.dtype) and value.is_floating_point
                return torch.float64 if keeps else value

            # In double, whatever type is asked for: the scales are rounded once, in the module.
            out = func(*map(probe, args), **{key: probe(v) for key, v in kwargs.items()})
            made.append(out.double())
        return cls(found[0].ghost, tuple(made))

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Whatever comes here reads values."""
        raise NotAWeightError(next(_stand_ins(args, kwargs or {})).ghost, str(func))

    def put_back(self, value: Any) -> None:
        """Fold the scales of ``value`` into the module, where this is its own weight."""
        if not self.is_own:
            raise NotAWeightError(self.ghost, "a copy is written to")
        put_weight(self.ghost, value)


_OUT_OF_PLACE = {
    name: torch.mul if "mul" in name else torch.div for name in IN_PLACE if name != "copy_"
}
_ASKING = frozenset(
    {"__get__", "size", "dim", "numel", "nelement", "is_floating_point", "element_size", "__len__",
     "get_device", "is_complex", "stride", "is_contiguous", "dtype", "__repr__", "ndimension"}
)  # fmt: skip


def _stand_ins(args: Any, kwargs: Any) -> Iterator[WeightStandIn]:
    for value in (*args, *kwargs.values()):
        if isinstance(value, WeightStandIn):
            yield value
        elif isinstance(value, tuple | list):
            yield from _stand_ins(value, {})


def _probes(ghost: Fusable) -> tuple[Tensor, Tensor]:
    primary = ghost.primary
    shape = list(primary.weight.shape)
    shape[int(is_transposed(primary))] = _outputs_of(ghost) // (
        primary.groups if is_transposed(primary) else 1
    )
    generator = torch.Generator().manual_seed(0)
    both = torch.rand(2, *shape, generator=generator, dtype=torch.float64) + 0.5
    both = both.to(primary.weight.device)
    return both[0], both[1]


def _outputs_of(ghost: Fusable) -> int:
    """How many outputs a ghost module has."""
    name = "out_channels" if isinstance(ghost.primary, _ConvNd) else "out_features"
    return int(getattr(ghost, name))


class Fusable(nn.Module):
    """A module that has a layer's ``weight`` to scale, and adds a ``bias`` to its outputs."""

    if TYPE_CHECKING:  # hidden from torch.jit.script, which can't read them
        primary: Any
        cheap: Any
        s: int
        bias: nn.Parameter | None
        scale: Tensor | None

    __jit_unused_properties__ = ("weight",)

    @property
    def weight(self) -> Any:
        """A stand-in for a layer's weight, for what fuses a norm: it can be scaled and put back.

        Nothing can be computed with it. The ``bias`` beside it is what is added to the outputs,
        None until something is fused.
        """
        return WeightStandIn(self, _probes(self), is_own=True)

    @weight.setter
    def weight(self, value: Any) -> None:
        put_weight(self, value)

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As every module's; a ``weight`` is what was made of the stand-in."""
        if name == "weight" and param is not None:
            put_weight(self, param)
        else:
            super().register_parameter(name, param)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *rest: Any, **more: Any
    ) -> None:
        for name in ("bias", "scale"):  # there where something was fused
            saved = state_dict.get(prefix + name)
            like = None if saved is None else torch.empty_like(saved, device=self._device())
            made = nn.Parameter(like) if name == "bias" and like is not None else like
            setattr(self, name, made)
        super()._load_from_state_dict(state_dict, prefix, *rest, **more)

    def _device(self) -> torch.device:
        return next(self.primary.parameters()).device

    def _make_affine(self, dimensions: int) -> None:
        """Room for what is fused: a factor and an offset of each output, behind the concat."""
        self.affine_shape = [-1] + [1] * dimensions
        self.register_parameter("bias", None)
        self.register_buffer("scale", None)

    def _affine(self, out: Tensor) -> Tensor:
        if self.scale is not None:
            out = out * self.scale.view(self.affine_shape)
        if self.bias is not None:
            out = out + self.bias.view(self.affine_shape)
        return out


@torch.no_grad()
def put_weight(ghost: Fusable, value: Any) -> None:
    """Take a weight that was made of the module's stand-in: scale its outputs as the filters were.

    What is added to the outputs (`Fusable.bias`) is not scaled, as a convolution's bias is not.

    Raises:
        NotAWeightError: It is a plain tensor, another module's, or more was done than scaling.
    """
    if not isinstance(value, WeightStandIn) or value.ghost is not ghost:
        raise NotAWeightError(ghost, "another tensor is put in its place")
    scales = []
    for before, after in zip(_probes(ghost), value.probes, strict=True):
        if before.shape != after.shape:
            raise NotAWeightError(ghost, f"a weight of shape {tuple(after.shape)} is put back")
        filters, old = (filters_of(ghost.primary, weight) for weight in (after, before))
        ratio = (filters / old).flatten(1)
        scales += [ratio.amin(1), ratio.amax(1)]
    if ghost.primary.weight.is_meta:
        return
    low, high = torch.stack(scales).amin(0), torch.stack(scales).amax(0)
    if not torch.allclose(low, high, rtol=1e-5, atol=1e-12):
        raise NotAWeightError(ghost, "its filters are not multiples of what they were")
    _scale(ghost, scales[0])


@torch.no_grad()
def fold(ghost: Fusable, scale: Tensor, shift: Tensor | None = None) -> None:
    """Make each output of a ghost module ``scale * output + shift``; in place, exactly.

    The scale goes into the filters of the intrinsic maps, and into the cheap kernels, divided by
    that of the map which they read. Where that would divide by almost nothing, or where the primary
    layer is of a class that may make its own of its weight, it is a factor behind the concat. The
    shift is added behind the concat: in the primary layer's bias the cheap operation would see it,
    but not beyond the border.

    Args:
        ghost: The module; changed in place.
        scale: ``(n,)``.
        shift: ``(n,)``; None for none.

    Example:
        >>> from ghostify.nn import GhostConv2d
        >>> ghost, x = GhostConv2d(3, 8, 3), torch.rand(1, 3, 6, 6)
        >>> wanted = 2 * ghost(x) + 1
        >>> fold(ghost, torch.full((8,), 2.0), torch.ones(8))
        >>> torch.allclose(ghost(x), wanted, atol=1e-6)
        True
    """
    weight = next(ghost.primary.parameters())
    scale = scale.detach().double().to(weight.device)
    _scale(ghost, scale)
    added = scale.new_zeros(len(scale)) if ghost.bias is None else ghost.bias.double() * scale
    if shift is not None:
        added = added + shift.detach().double().to(weight.device)
    if shift is not None or ghost.bias is not None:
        ghost.bias = nn.Parameter(added.to(weight.dtype), requires_grad=weight.requires_grad)


def _scale(ghost: Fusable, scale: Tensor) -> None:
    """Scale what the module's layers make, ``(n,)``."""
    behind = _scale_inside(ghost, scale) if _is_plain(ghost) else scale
    if ghost.scale is not None:
        behind = behind * ghost.scale.double()
    dtype = next(ghost.primary.parameters()).dtype
    ghost.scale = behind.to(dtype) if bool((behind != 1).any()) else None


def _is_plain(ghost: Fusable) -> bool:
    """Whether the weights of both layers are the filters that they compute with."""
    layers = [layer for layer in (ghost.primary, ghost.cheap) if layer is not None]
    return all(type(x) in PLAIN and "weight" in x._parameters for x in layers)


def _scale_inside(ghost: Fusable, scale: Tensor) -> Tensor:
    """Scale the filters and cheap kernels; what is left to be done behind the concat, ``(n,)``."""
    primary, cheap = ghost.primary, ghost.cheap
    groups = primary.groups if isinstance(primary, _ConvNd) else 1
    m, s = len(filters_of(primary)) // groups, ghost.s
    places = getattr(ghost, "order", None)
    if places is None:
        places = torch.arange(groups)[:, None] * m * s + torch.arange(len(scale) // groups)
        places = places.flatten().to(scale.device)
    wanted = scale.new_ones(groups * m * s)
    wanted[places] = scale
    factors = wanted.view(groups, m * s)
    maps, ghosts = factors[:, :m], factors[:, m:].unflatten(1, (m, s - 1)) if s > 1 else None
    inside = torch.where(maps.abs() > SMALLEST * wanted.abs().max(), maps, 1.0)
    _multiply(primary, inside.flatten())
    if cheap is not None and ghosts is not None:
        _multiply(cheap, (ghosts / inside[..., None]).flatten(), ghosts.flatten())
    behind = torch.ones_like(factors)
    behind[:, :m] = maps / inside
    return behind.flatten()[places]


def _multiply(layer: _ConvNd | nn.Linear, factors: Tensor, of_bias: Tensor | None = None) -> None:
    """Multiply each filter, and each bias, by a factor, ``(outputs,)``."""
    filters = filters_of(layer).double()
    scaled = filters * factors.view(-1, *[1] * (filters.ndim - 1))
    layer.weight.copy_(weight_of(layer, scaled))
    if layer.bias is not None:
        layer.bias.mul_((factors if of_bias is None else of_bias).to(layer.bias))
