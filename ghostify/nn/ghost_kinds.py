"""Ghost modules of the other kinds of convolution: of one and three dimensions, and transposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.ghost import (
    BiasMode,
    GhostConv,
    GhostConv2d,
    KernelSize,
    PlainGhostConv,
    check_s_d,
    intrinsic_of_groups,
)
from ghostify.nn.start import draw_kernels


class GhostConv1d(PlainGhostConv):
    """A `torch.nn.Conv1d` as a ghost module; the cheap operation has d taps. See `GhostConv2d`.

    Shape:
        - Input: ``(N, in_channels, L)`` or ``(in_channels, L)``
        - Output: ``(N, out_channels, L')`` or ``(out_channels, L')``, as `torch.nn.Conv1d`

    Example:
        >>> import torch
        >>> ghost = GhostConv1d(16, 64, 9, padding=4, s=2, d=3)
        >>> ghost(torch.zeros(1, 16, 100)).shape, tuple(ghost.cheap.weight.shape)
        (torch.Size([1, 64, 100]), (32, 1, 3))
    """

    kind = cheap_kind = nn.Conv1d  # type: ignore[assignment]

    if TYPE_CHECKING:
        primary: nn.Conv1d
        cheap: nn.Conv1d | None


class GhostConv3d(PlainGhostConv):
    """A `torch.nn.Conv3d` as a ghost module; its cheap kernel is d x d x d. See `GhostConv2d`.

    Shape:
        - Input: ``(N, in_channels, D, H, W)`` or ``(in_channels, D, H, W)``
        - Output: ``(N, out_channels, D', H', W')`` or without N, as `torch.nn.Conv3d`

    Example:
        >>> import torch
        >>> ghost = GhostConv3d(4, 16, 3, padding=1, s=2, d=3)
        >>> ghost(torch.zeros(1, 4, 6, 6, 6)).shape, tuple(ghost.cheap.weight.shape)
        (torch.Size([1, 16, 6, 6, 6]), (8, 1, 3, 3, 3))
    """

    kind = cheap_kind = nn.Conv3d  # type: ignore[assignment]

    if TYPE_CHECKING:
        primary: nn.Conv3d
        cheap: nn.Conv3d | None


class GhostTransposed(GhostConv):
    """Base of the ghost modules of transposed convolutions.

    ``primary`` is a transposed convolution with m = ceil(n / s) outputs; ``cheap`` is an ordinary
    depth-wise convolution, "same" padding, on the maps that it has upsampled.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        stride: KernelSize = 1,
        padding: KernelSize = 0,
        output_padding: KernelSize = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: KernelSize = 1,
        *,
        s: int = 2,
        d: KernelSize = 3,
        divisor: int = 1,
        bias_mode: BiasMode = "full",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_s_d(s, d)
        primary = self.kind(
            in_channels, intrinsic_of_groups(out_channels, s, groups, divisor),
            kernel_size, stride, padding, output_padding, groups, bias, dilation,  # type: ignore[arg-type]
            device=device, dtype=dtype,
        )  # fmt: skip
        self._assemble(primary, out_channels, s, d, bias_mode)
        if self.cheap is not None:
            draw_kernels(self.cheap)

    def _assemble(self, primary: _ConvNd, *rest: Any) -> None:
        super()._assemble(primary, *rest)
        self.output_padding = primary.output_padding

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(N, in_channels, ...)`` to ``(N, out_channels, ...)``, of ``output_size`` if given."""
        return self._affine(self._completed(self.primary(x, output_size)))


class GhostConvTranspose1d(GhostTransposed):
    """A `torch.nn.ConvTranspose1d` as a ghost module; the cheap operation has d taps.

    Shape:
        - Input: ``(N, in_channels, L)`` or ``(in_channels, L)``
        - Output: ``(N, out_channels, L')`` or without N, as `torch.nn.ConvTranspose1d`

    Example:
        >>> import torch
        >>> GhostConvTranspose1d(16, 8, 4, stride=2, padding=1)(torch.zeros(1, 16, 50)).shape
        torch.Size([1, 8, 100])
    """

    kind = nn.ConvTranspose1d  # type: ignore[assignment]
    cheap_kind = nn.Conv1d  # type: ignore[assignment]

    if TYPE_CHECKING:
        primary: nn.ConvTranspose1d
        cheap: nn.Conv1d | None


class GhostConvTranspose2d(GhostTransposed):
    """A `torch.nn.ConvTranspose2d` as a ghost module; its cheap kernel is d x d.

    Shape:
        - Input: ``(N, in_channels, H, W)`` or ``(in_channels, H, W)``
        - Output: ``(N, out_channels, H', W')`` or without N, as `torch.nn.ConvTranspose2d`

    Example:
        >>> import torch
        >>> ghost = GhostConvTranspose2d(16, 8, 2, stride=2, s=2, d=3)
        >>> ghost(torch.zeros(1, 16, 7, 7)).shape, tuple(ghost.primary.weight.shape)
        (torch.Size([1, 8, 14, 14]), (16, 4, 2, 2))
    """

    kind = nn.ConvTranspose2d  # type: ignore[assignment]

    if TYPE_CHECKING:
        primary: nn.ConvTranspose2d
        cheap: nn.Conv2d | None


class GhostConvTranspose3d(GhostTransposed):
    """A `torch.nn.ConvTranspose3d` as a ghost module; its cheap kernel is d x d x d.

    Shape:
        - Input: ``(N, in_channels, D, H, W)`` or ``(in_channels, D, H, W)``
        - Output: ``(N, out_channels, D', H', W')`` or without N, as `torch.nn.ConvTranspose3d`

    Example:
        >>> import torch
        >>> GhostConvTranspose3d(4, 8, 2, stride=2)(torch.zeros(1, 4, 3, 3, 3)).shape
        torch.Size([1, 8, 6, 6, 6])
    """

    kind = nn.ConvTranspose3d  # type: ignore[assignment]
    cheap_kind = nn.Conv3d  # type: ignore[assignment]

    if TYPE_CHECKING:
        primary: nn.ConvTranspose3d
        cheap: nn.Conv3d | None


GHOST_KINDS: dict[type[_ConvNd], type[GhostConv]] = {
    nn.Conv2d: GhostConv2d,
    nn.Conv1d: GhostConv1d,
    nn.Conv3d: GhostConv3d,
    nn.ConvTranspose1d: GhostConvTranspose1d,
    nn.ConvTranspose2d: GhostConvTranspose2d,
    nn.ConvTranspose3d: GhostConvTranspose3d,
}
"""The ghost module of each kind of convolution; a new kind is one more entry."""

CONV_KINDS = tuple(GHOST_KINDS)
"""The kinds of convolution that have a ghost module; subclasses too."""


def ghost_kind(layer: nn.Module) -> type[GhostConv] | None:
    """The ghost module for a convolution of any class; None for what is none."""
    for kind, ghost in GHOST_KINDS.items():
        if isinstance(layer, kind):
            return ghost
    return None
