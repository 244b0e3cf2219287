"""The ghost module inside C-GhostNet (Section 3.2): a ghost convolution with norms inside it."""

from __future__ import annotations

from torch import nn

from ghostify.nn.ghost import GhostConv2d


class GhostModule(GhostConv2d):
    """A `GhostConv2d` both parts of which end in a batch norm and, if asked for, a ReLU.

    The cheap operation thus works on normalised, rectified intrinsic maps, which is what sets a
    network built of ghost modules apart from a converted one.

    Args:
        in_channels: Channels c of the input.
        out_channels: Channels n of the output.
        kernel_size: Kernel of the primary convolution.
        stride: Of the primary convolution.
        s: The paper's s.
        d: Kernel size of the cheap operation; odd.
        act: Whether a ReLU follows each norm.

    Shape:
        - Input: ``(N, in_channels, H, W)``
        - Output: ``(N, out_channels, H / stride, W / stride)``

    Raises:
        SettingsError: s or d makes no sense.

    Example:
        >>> import torch
        >>> GhostModule(16, 48)(torch.zeros(1, 16, 8, 8)).shape
        torch.Size([1, 48, 8, 8])
    """

    primary: nn.Sequential  # type: ignore[assignment]
    cheap: nn.Sequential | None  # type: ignore[assignment]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        *,
        s: int = 2,
        d: int = 3,
        act: bool = True,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False, s=s, d=d
        )
        self.primary = _followed(self.primary, act)
        if self.cheap is not None:
            self.cheap = _followed(self.cheap, act)


def _followed(conv: nn.Module, act: bool) -> nn.Sequential:
    norm = nn.BatchNorm2d(int(getattr(conv, "out_channels")))  # noqa: B009
    return nn.Sequential(conv, norm, *([nn.ReLU(inplace=True)] if act else []))
