"""The ghost module in the place of a linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from ghostify.nn.ghost import BiasMode, InitMode, PairedGhost, check_s_d, intrinsic_channels
from ghostify.nn.start import carve, draw_kernels


class GhostLinear(PairedGhost):
    """`torch.nn.Linear` as a 1x1 ghost module: m = ceil(n / s) features, the others by scaling.

    The cheap operation is a depth-wise 1x1 convolution: a factor per ghost and, with
    ``bias_mode="full"``, an offset.

    Shape:
        - Input: ``(*, in_features)``
        - Output: ``(*, out_features)``

    Raises:
        SettingsError: s makes no sense.

    Example:
        >>> GhostLinear(128, 10, s=2)(torch.zeros(4, 128)).shape
        torch.Size([4, 10])
    """

    if TYPE_CHECKING:
        primary: nn.Linear
        cheap: _ConvNd | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        s: int = 2,
        bias_mode: BiasMode = "full",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        check_s_d(s, 1)
        m = intrinsic_channels(out_features, s)
        primary = nn.Linear(in_features, m, bias, device=device, dtype=dtype)
        self._assemble(primary, out_features, s, bias_mode)
        if self.cheap is not None:
            draw_kernels(self.cheap)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        s: int = 2,
        *,
        divisor: int = 1,
        bias_mode: BiasMode = "full",
        init: InitMode = "projection",
        generator: torch.Generator | None = None,
    ) -> GhostLinear:
        """The ghost module in ``linear``'s place; see `GhostConv2d.from_conv`."""
        check_s_d(s, 1)
        m = intrinsic_channels(linear.out_features, s, divisor)
        ghost = cls.__new__(cls)
        nn.Module.__init__(ghost)
        ghost._assemble(carve(linear, torch.arange(m)), linear.out_features, s, bias_mode)
        ghost._start(linear, init, generator)
        return ghost

    def _assemble(self, primary: nn.Linear, out_features: int, s: int, bias_mode: BiasMode) -> None:
        self.s, self.d = s, 1
        self.in_features, self.out_features = primary.in_features, out_features
        self.primary, self.cheap = primary, None
        self.intrinsic_maps, self.groups = primary.out_features, 1
        self.register_buffer("order", None)
        self._make_affine(0)
        self.training = primary.training
        if s > 1:
            self.cheap = self._make_cheap(
                nn.Conv1d, primary.out_features, bias_mode, kernel_size=(1,)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``(*, in_features)`` to ``(*, out_features)``."""
        intrinsic = self.primary(x)
        if self.cheap is None:
            return self._affine(intrinsic)
        columns = intrinsic.reshape(-1, intrinsic.size(-1), 1)
        ghosts = self.cheap(columns).reshape(intrinsic.shape[:-1] + (self.cheap.out_channels,))
        out, order = torch.cat([intrinsic, ghosts], dim=-1), self.order
        if order is None:
            return self._affine(out.narrow(-1, 0, self.out_features))
        return self._affine(out.index_select(-1, order))

    def extra_repr(self) -> str:
        """Text that ``print(model)`` shows beside the two parts."""
        return f"{self.in_features}, {self.out_features}, s={self.s}"
