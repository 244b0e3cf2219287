"""The C-Ghost module (Section 3.1, Eq. 2-3, Figure 2), for convolutions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from typing_extensions import Self

from ghostify.errors import SettingsError, shown
from ghostify.nn.fusing import Fusable
from ghostify.nn.order import Ordered
from ghostify.nn.start import carve, draw_kernels, project

BiasMode = Literal["full", "primary"]
InitMode = Literal["projection", "random"]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
KernelSize = int | tuple[int, ...]
"""One size for all dimensions of the maps, or one for each."""


def intrinsic_channels(out_channels: int, s: int, divisor: int = 1, groups: int = 1) -> int:
    """Number of intrinsic feature maps m = ceil(n / s) of Eq. 2.

    Args:
        out_channels: Number of outputs n.
        s: The paper's s.
        divisor: What m is rounded up to a multiple of, where that leaves ghosts to make (m < n).
        groups: What must divide m where it is rounded; else it stays.

    Raises:
        SettingsError: divisor is no whole number of 1 or more.

    Example:
        >>> intrinsic_channels(64, 2), intrinsic_channels(10, 4), intrinsic_channels(90, 4, 8)
        (32, 3, 24)
    """
    if isinstance(divisor, bool) or not isinstance(divisor, int) or divisor < 1:
        raise SettingsError(
            f"divisor={shown(divisor)} makes no sense: give a whole number of 1 or more."
        )
    m = -(-out_channels // s)
    rounded = -(-m // divisor) * divisor
    return rounded if rounded < out_channels and rounded % groups == 0 else m


MOST_D = 255
"""The largest kernel of a cheap operation: as large as a map, four times the largest in use."""


def check_s_d(s: int, d: KernelSize) -> None:
    """Raise `SettingsError` unless s is a whole number >= 1 and d odd ones up to `MOST_D`."""
    if isinstance(s, bool) or not isinstance(s, int) or not 1 <= s < 2**63:
        raise SettingsError(
            f"s={shown(s)} makes no sense: give a whole number of 1 or more, below 2**63."
        )
    sizes: tuple[Any, ...] = d if isinstance(d, tuple) and d else (d,)
    for size in sizes:
        is_whole = isinstance(size, int) and not isinstance(size, bool)
        if not is_whole or not 1 <= size <= MOST_D or size % 2 == 0:
            raise SettingsError(
                f"d={shown(d)} makes no sense: give an odd whole number (1, 3, 5, ..., {MOST_D})."
            )


def sizes_of(d: KernelSize, dimensions: int) -> tuple[int, ...]:
    """The cheap kernel's size along each dimension of the maps.

    Raises:
        SettingsError: d has another number of sizes.

    Example:
        >>> sizes_of(3, 2), sizes_of((3, 1), 2)
        ((3, 3), (3, 1))
    """
    if not isinstance(d, tuple):
        return (d,) * dimensions
    if len(d) != dimensions:
        raise SettingsError(
            f"d={shown(d)} has {len(d)} sizes for maps of {dimensions} dimensions: "
            "give one for each, or one number."
        )
    return d


class GhostLayer(Fusable):
    """Base of the ghost modules: a primary layer, its cheap operation, the concat."""

    if TYPE_CHECKING:  # hidden from torch.jit.script, which can't read them
        primary: Any
        cheap: Any
        s: int
        d: KernelSize

    def _make_cheap(
        self, kind: type[_ConvNd], m: int, bias_mode: BiasMode, **kernel: Any
    ) -> _ConvNd:
        """The depth-wise operation of m intrinsic maps, beside ``self.primary``, not yet drawn."""
        weight = self.primary.weight
        bias = self.primary.bias is not None and bias_mode == "full"
        if all(size == 1 for size in kernel["kernel_size"]):
            # A kernel of one tap has no gaps: this changes no value, but it keeps PyTorch on one
            # thread from a path that runs channel by channel (13 ms in place of 0.1 ms for 2,048).
            kernel["dilation"] = 2
        # Made on the meta device, so that PyTorch's global random state is left alone.
        cheap = kind(m, m * (self.s - 1), groups=m, bias=bias, device="meta", **kernel)
        cheap = cheap.to(weight.dtype).to_empty(device=weight.device)
        cheap.train(self.primary.training)
        return cheap.requires_grad_(weight.requires_grad)

    def _start(
        self, layer: _ConvNd | nn.Linear, init: InitMode, generator: torch.Generator | None
    ) -> None:
        """Fit the cheap operation to ``layer``, or draw it."""
        if self.cheap is None or layer.weight.is_meta:
            return
        if init == "random":
            draw_kernels(self.cheap, generator)
        else:
            project(layer, self.cheap, getattr(layer, "groups", 1))


class PairedGhost(Ordered, GhostLayer):
    """Base of the ghost modules in which each ghost can come from any intrinsic map (`set_order`).

    Attributes:
        intrinsic_maps: Maps that the primary layer makes, m.
        groups: Groups of the layer that it stands for.
    """

    if TYPE_CHECKING:
        intrinsic_maps: int
        groups: int

    def set_order(self, order: Tensor | None) -> None:
        """Say where each output is found, where intrinsic maps and ghosts are not in their order.

        Args:
            order: For each of the n outputs its place in the concat of (each group's) intrinsic
                maps and ghosts, ``(n,)``; None, or the plain order, for none.
        """
        if order is not None:
            own = self.intrinsic_maps // self.groups * self.s
            plain = torch.arange(self.groups)[:, None] * own
            plain = plain + torch.arange(len(order) // self.groups)
            order = None if torch.equal(order.cpu(), plain.flatten()) else order
        self.order = None if order is None else order.to(self.primary.weight.device)


class GhostConv(PairedGhost):
    """Base of the ghost modules of convolutions, of any number of dimensions."""

    if TYPE_CHECKING:
        primary: _ConvNd
        cheap: _ConvNd | None
        out_channels: int

    kind = nn.Conv2d
    """The convolution that the module stands for."""
    cheap_kind = nn.Conv2d
    """The depth-wise convolution on its maps."""

    @classmethod
    def from_conv(
        cls,
        conv: _ConvNd,
        s: int = 2,
        d: KernelSize = 3,
        *,
        divisor: int = 1,
        bias_mode: BiasMode = "full",
        init: InitMode = "projection",
        generator: torch.Generator | None = None,
    ) -> Self:
        """The ghost module in ``conv``'s place, with what it can keep of the weights.

        The primary convolution is of ``conv``'s own class and takes its first filters; with
        ``init="projection"`` each ghost starts as the multiple of its intrinsic map whose filter is
        nearest (least squares) to the filter it replaces, with ``"random"`` as PyTorch draws a
        convolution. ``conv`` is not changed. ``divisor``: see `intrinsic_channels`.

        Raises:
            SettingsError: s or d makes no sense, or ``conv.groups`` doesn't divide m.
        """
        check_s_d(s, d)
        n, groups = conv.out_channels, conv.groups
        m = intrinsic_of_groups(n, s, groups, divisor)
        kept = torch.arange(n).view(groups, -1)[:, : m // groups].flatten()
        ghost = cls.__new__(cls)
        nn.Module.__init__(ghost)
        ghost._assemble(carve(conv, kept), n, s, d, bias_mode)
        ghost._start(conv, init, generator)
        return ghost

    def _assemble(
        self, primary: _ConvNd, out_channels: int, s: int, d: KernelSize, bias_mode: BiasMode
    ) -> None:
        sizes = sizes_of(d, len(primary.kernel_size))
        self.s, self.d = s, sizes[0] if len(set(sizes)) == 1 else sizes
        self.in_channels, self.out_channels = primary.in_channels, out_channels
        self.kernel_size, self.stride = primary.kernel_size, primary.stride
        self.padding, self.padding_mode = primary.padding, primary.padding_mode
        self.dilation, self.groups = primary.dilation, primary.groups
        self.channel_dim = -1 - len(sizes)
        self.primary, self.cheap = primary, None
        # Kept as a number: a subclass may put the primary convolution into a module of its own.
        self.intrinsic_maps = primary.out_channels
        self.register_buffer("order", None)
        self._make_affine(len(sizes))
        self.training = primary.training
        if s > 1:
            kernel = {"kernel_size": sizes, "padding": tuple(size // 2 for size in sizes)}
            m = self.intrinsic_maps
            self.cheap = self._make_cheap(self.cheap_kind, m, bias_mode, **kernel)

    def _completed(self, intrinsic: Tensor) -> Tensor:
        """The output of the module: intrinsic maps and the ghosts made from them."""
        if self.cheap is None:
            return intrinsic
        dim = self.channel_dim
        ghosts = self.cheap(intrinsic)
        if self.order is not None:
            return self._in_order(intrinsic, ghosts)
        if self.groups == 1:
            out = torch.cat([intrinsic, ghosts], dim=dim)
            # Worked out and not asked of the tensor, so that it is known when tracing.
            surplus = self.intrinsic_maps * self.s - self.out_channels
            return out if surplus == 0 else out.narrow(dim, 0, self.out_channels)
        sizes = [self.groups, -1]
        parts = [intrinsic.unflatten(dim, sizes), ghosts.unflatten(dim, sizes)]
        out = torch.cat(parts, dim=dim).narrow(dim, 0, self.out_channels // self.groups)
        return out.flatten(dim - 1, dim)

    def _in_order(self, intrinsic: Tensor, ghosts: Tensor) -> Tensor:
        assert self.order is not None
        dim = self.channel_dim
        if self.groups == 1:
            return self._select(torch.cat([intrinsic, ghosts], dim=dim), self.order, dim)
        parts = [maps.unflatten(dim, (self.groups, -1)) for maps in (intrinsic, ghosts)]
        return self._select(torch.cat(parts, dim=dim).flatten(dim - 1, dim), self.order, dim)

    def extra_repr(self) -> str:
        """Text that ``print(model)`` shows beside the two parts."""
        return f"{self.in_channels}, {self.out_channels}, s={self.s}, d={self.d}"


def intrinsic_of_groups(out_channels: int, s: int, groups: int, divisor: int = 1) -> int:
    """The intrinsic channels m; raises `SettingsError` unless the groups divide them."""
    m = intrinsic_channels(out_channels, s, divisor, groups)
    if m % groups:
        raise SettingsError(
            f"groups={groups} does not divide the {m} intrinsic channels of "
            f"out_channels={out_channels} at s={s}: choose another s."
        )
    return m


class PlainGhostConv(GhostConv):
    """Base of the ghost modules of convolutions that are not transposed."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: KernelSize,
        stride: KernelSize = 1,
        padding: KernelSize | str = 0,
        dilation: KernelSize = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
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
            kernel_size, stride, padding, dilation, groups, bias, padding_mode,  # type: ignore[arg-type]
            device=device, dtype=dtype,
        )  # fmt: skip
        self._assemble(primary, out_channels, s, d, bias_mode)
        if self.cheap is not None:
            draw_kernels(self.cheap)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, in_channels, ...)`` to ``(N, out_channels, ...)``."""
        return self._affine(self._completed(self.primary(x)))


class GhostConv2d(PlainGhostConv):
    """A convolution that makes n/s feature maps itself and the others from those, cheaply.

    ``primary`` (Eq. 2) has m = ceil(n / s) filters and the hyper-parameters of the convolution it
    stands for; ``cheap`` (Eq. 3) is a depth-wise d x d convolution, stride 1, "same" padding, that
    makes s - 1 ghosts of each intrinsic map; the output is their concat, its first n channels.
    With ``groups`` > 1 each group is a ghost module of its own (its intrinsic maps, then its
    ghosts), so that the channel order is the convolution's.

    Args:
        in_channels: Channels c of the input.
        out_channels: Channels n of the output.
        kernel_size: Kernel of the primary convolution.
        stride: As in `torch.nn.Conv2d`.
        padding: As in `torch.nn.Conv2d`.
        dilation: As in `torch.nn.Conv2d`.
        groups: As in `torch.nn.Conv2d`; must divide m.
        bias: Whether the module has biases.
        padding_mode: As in `torch.nn.Conv2d`.
        s: The paper's s; 1 leaves only the primary convolution.
        d: Kernel size of the cheap operation; odd. ``(d, 1)`` where maps are one pixel wide.
        divisor: What m is rounded up to a multiple of, where that leaves ghosts to make.
        bias_mode: ``"full"``: every output channel has a bias, ``"primary"``: the intrinsic only.
        device: Where the parameters are.
        dtype: Type of the parameters.

    Shape:
        - Input: ``(N, in_channels, H, W)`` or ``(in_channels, H, W)``
        - Output: ``(N, out_channels, H', W')`` or ``(out_channels, H', W')``, as `torch.nn.Conv2d`

    Raises:
        SettingsError: s or d makes no sense, or ``groups`` doesn't divide m.

    Example:
        >>> ghost = GhostConv2d(16, 64, 3, padding=1, s=2, d=3)
        >>> ghost(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 64, 8, 8])
        >>> tuple(ghost.primary.weight.shape), tuple(ghost.cheap.weight.shape)
        ((32, 16, 3, 3), (32, 1, 3, 3))
    """

    if TYPE_CHECKING:
        primary: nn.Conv2d
        cheap: nn.Conv2d | None
