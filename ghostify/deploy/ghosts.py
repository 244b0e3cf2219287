"""The inference form of a ghost module: its parts as the runtimes compute them fastest."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.concat import Concat
from ghostify.nn.ghost import GhostConv, PlainGhostConv
from ghostify.nn.ghost_kinds import GHOST_KINDS
from ghostify.nn.order import select_channels

ModuleT = TypeVar("ModuleT", bound=nn.Module)

CONVOLUTION = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "padding_mode", "dilation",
    "groups",
)  # fmt: skip


class FusedGhost(nn.Module):
    """A ghost module for inference: plain depth-wise convolutions, one concat.

    A depth-wise convolution that makes several maps of each takes a slow path in oneDNN, ONNX
    Runtime and OpenVINO: here ``cheap[j]`` makes ghost j of every intrinsic map. The output is all
    intrinsic maps, then each convolution's ghosts, without surplus; where that is not the order
    that follows, ``order`` picks. The concat names axis 1, the only one that ONNX Runtime's blocked
    layout takes.

    Args:
        primary: The primary convolution of any kind, m filters.
        cheap: Depth-wise convolutions; each takes as many of the first intrinsic maps as it has
            inputs.
        gives: How many of each one's outputs are used, the first.
        order: Which channel of the concat each output is, ``(n,)``; None for the plain order.

    Attributes:
        norm: What the intrinsic maps go through before the concat, not before the cheap operation:
            a norm that was folded into the others; or None.

    Shape:
        - Input: ``(N, in_channels, ...)``
        - Output: ``(N, out_channels, ...)``
    """

    def __init__(
        self,
        primary: _ConvNd,
        cheap: Sequence[_ConvNd],
        gives: Sequence[int],
        order: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.primary = primary
        self.cheap = nn.ModuleList(cheap)
        self.gives = tuple(gives)
        self.channel_dim = -1 - len(primary.kernel_size)
        self.norm: _BatchNorm | None = None
        self.order: Tensor | None
        self.register_buffer("order", order)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Channels of each part that is concatenated."""
        return self.primary.out_channels, *self.gives

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(N, in_channels, ...)`` to ``(N, out_channels, ...)``.

        Args:
            x: The maps.
            output_size: Of a transposed convolution, where it can make several sizes.
        """
        out = torch.cat(self.made_of(x, output_size), dim=1)
        return out if self.order is None else select_channels(out, self.order, self.channel_dim)

    def made_of(self, x: Tensor, output_size: list[int] | None = None) -> list[Tensor]:
        """The intrinsic maps, and the ghosts of each convolution: what is concatenated."""
        intrinsic = self.primary(x) if output_size is None else self.primary(x, output_size)
        ghosts = [
            self._ghosts(intrinsic, *part) for part in zip(self.cheap, self.gives, strict=True)
        ]
        if self.norm is not None:
            intrinsic = self.norm(intrinsic)
        return [intrinsic, *ghosts]

    def _ghosts(self, intrinsic: Tensor, cheap: nn.Module, gives: int) -> Tensor:
        assert isinstance(cheap, _ConvNd)
        takes_all = cheap.in_channels == self.primary.out_channels
        ghosts = cheap(intrinsic if takes_all else intrinsic[:, : cheap.in_channels])
        return ghosts if gives == cheap.out_channels else ghosts[:, :gives]

    def extra_repr(self) -> str:
        """Text that ``print(model)`` shows beside the parts."""
        return f"{self.primary.in_channels}, {sum(self.sizes)}"


class FusedGhostModule(nn.Module):
    """A ghost module for inference whose parts have norms and activations inside.

    Args:
        primary: Makes the intrinsic maps.
        cheap: Makes the ghosts of them.
        sizes: How many of each are used.

    Shape:
        - Input: ``(N, in_channels, ...)``
        - Output: ``(N, out_channels, ...)``
    """

    def __init__(self, primary: nn.Module, cheap: nn.Module, sizes: Sequence[int]) -> None:
        super().__init__()
        self.primary, self.cheap = primary, cheap
        self.concat = Concat(sizes)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, ...)`` to ``(N, out_channels, ...)``."""
        intrinsic = self.primary(x)
        whole: Tensor = self.concat(intrinsic, self.cheap(intrinsic))
        return whole


def fused_ghost_module(ghost: GhostConv) -> FusedGhostModule | None:
    """The inference form of a ghost module whose parts are no plain convolutions.

    Its norms are not folded by this. None where it has more to do than a concat.
    """
    is_plain = ghost.groups == 1 and ghost.order is None
    is_plain = is_plain and ghost.bias is None and ghost.scale is None
    if isinstance(ghost.primary, _ConvNd) or ghost.cheap is None or not is_plain:
        return None
    if type(ghost).forward is not PlainGhostConv.forward or is_hooked(ghost):
        return None
    m = ghost.intrinsic_maps
    made = FusedGhostModule(ghost.primary, ghost.cheap, (m, ghost.out_channels - m))
    return made.train(ghost.training)


def can_be_fused(ghost: GhostConv) -> bool:
    """Whether a ghost module has an inference form: plain convolutions, and no group a surplus."""
    if type(ghost.cheap) is not ghost.cheap_kind or type(ghost) not in GHOST_KINDS.values():
        return False
    if ghost.bias is not None or ghost.scale is not None:  # other code has fused a norm into it
        return False
    if is_hooked(ghost):
        return False
    return ghost.groups == 1 or ghost.primary.out_channels * ghost.s == ghost.out_channels


def is_hooked(layer: nn.Module) -> bool:
    """Whether hooks see, or change, what goes through a layer or its parts."""
    return any(m._forward_hooks or m._forward_pre_hooks for m in layer.modules())


def outputs_in_concat(ghost: GhostConv) -> Tensor:
    """Which output of the ghost module each channel of its inference form's concat is.

    Without an ``order`` the module's outputs are, group by group, its intrinsic maps and then the
    ghosts of each; the inference form has all intrinsic maps and then the ghosts by convolution.

    Returns:
        Numbers of outputs, -1 for a channel that is none: ``(K,)``, K >= n.
    """
    parts = [_intrinsic_outputs(ghost)]
    parts += [outputs[: _length(outputs)] for outputs in _ghost_outputs(ghost).t()]
    return torch.cat(parts)


def fused_ghost(ghost: GhostConv, wanted: Tensor) -> FusedGhost:
    """The inference form of a ghost module.

    Where its convolutions of one ghost each would need an index to come to the order wanted, and
    the one convolution of all ghosts does not, that stays.

    Args:
        ghost: A module for which `can_be_fused` holds; it is not changed, and shares its primary
            convolution.
        wanted: Its outputs in the order in which they are to come, ``(n,)``.
    """
    assert ghost.cheap is not None
    concat = outputs_in_concat(ghost)
    order = None
    if not torch.equal(concat, wanted):
        if ghost.order is None and ghost.groups == 1 and torch.equal(wanted, wanted.sort().values):
            return _unsplit(ghost)
        place = torch.empty_like(wanted)
        place[concat[concat >= 0]] = (concat >= 0).nonzero().flatten()
        order = place[wanted].to(ghost.primary.weight.device)
    lengths = [_length(outputs) for outputs in _ghost_outputs(ghost).t()]
    cheap = [_cheap_of(ghost.cheap, j, ghost.s, k) for j, k in enumerate(lengths) if k]
    gives = [conv.out_channels for conv in cheap]
    return like_convolution(FusedGhost(ghost.primary, cheap, gives, order), ghost)


def _unsplit(ghost: GhostConv) -> FusedGhost:
    assert ghost.cheap is not None
    gives = ghost.out_channels - ghost.primary.out_channels
    return like_convolution(FusedGhost(ghost.primary, [copy.deepcopy(ghost.cheap)], [gives]), ghost)


def like_convolution(made: ModuleT, layer: nn.Module) -> ModuleT:
    """With the settings that a network may ask of the layer it stands for, and in its mode."""
    for name in CONVOLUTION:
        setattr(made, name, getattr(layer, name))
    return made.train(layer.training)


def _length(outputs: Tensor) -> int:
    """How many intrinsic maps a convolution takes: up to the last whose ghost is an output."""
    return int((outputs >= 0).nonzero().max()) + 1 if bool((outputs >= 0).any()) else 0


def _outputs_by_group(ghost: GhostConv) -> Tensor:
    """Which output each channel of the module's own concat is, -1 for surplus, ``(groups, K)``."""
    own = ghost.primary.out_channels // ghost.groups * ghost.s
    place = ghost.order
    if place is None:
        per_group = torch.arange(ghost.out_channels // ghost.groups)
        place = (torch.arange(ghost.groups)[:, None] * own + per_group).flatten()
    outputs = torch.full((ghost.groups * own,), -1)
    outputs[place.cpu()] = torch.arange(ghost.out_channels)
    return outputs.view(ghost.groups, own)


def _intrinsic_outputs(ghost: GhostConv) -> Tensor:
    m = ghost.primary.out_channels // ghost.groups
    return _outputs_by_group(ghost)[:, :m].flatten()


def _ghost_outputs(ghost: GhostConv) -> Tensor:
    """Which output ghost j of intrinsic map i is, ``(m, s - 1)``."""
    m = ghost.primary.out_channels // ghost.groups
    return _outputs_by_group(ghost)[:, m:].reshape(-1, ghost.s - 1)


def _cheap_of(cheap: _ConvNd, j: int, s: int, length: int) -> _ConvNd:
    """The convolution that makes ghost j of the first intrinsic maps."""
    conv = type(cheap)(
        length, length, cheap.kernel_size, padding=cheap.padding, dilation=cheap.dilation,  # type: ignore
        groups=length, bias=cheap.bias is not None,
        device=cheap.weight.device, dtype=cheap.weight.dtype,
    )  # fmt: skip
    with torch.no_grad():
        conv.weight.copy_(cheap.weight[j :: s - 1][:length])
        if cheap.bias is not None and conv.bias is not None:
            conv.bias.copy_(cheap.bias[j :: s - 1][:length])
    return conv
