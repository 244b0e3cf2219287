"""Parts that random networks are made of: each kind a builder from input channels and a `Part`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.passes.blocks import KINDS as BLOCKS


@dataclass(frozen=True, repr=False)
class Part:
    """One part of a network; what a kind has no use for is ignored."""

    kind: str = "conv"
    width: int = 8
    norm: str = "none"
    act: str = "none"
    kernel: int = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    bias: bool = True
    padding_mode: str = "zeros"
    block: str = "Basic"
    repeat: int = 3
    hook: str = "none"

    def __repr__(self) -> str:
        """What differs from a plain convolution, so that a failure is read at a glance."""
        told = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"Part({', '.join(told)})"


class LayerNormOfChannels(nn.Module):
    """LayerNorm over the channels of ``(N, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


NORMS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda c: nn.Identity(),
    "batch": nn.BatchNorm2d,
    "group": lambda c: nn.GroupNorm(math.gcd(2, c), c),
    "instance": lambda c: nn.InstanceNorm2d(c, affine=True),
    "instance with statistics": lambda c: nn.InstanceNorm2d(c, track_running_stats=True),
    "layer": LayerNormOfChannels,
    "sync": nn.SyncBatchNorm,
    "batch without statistics": lambda c: nn.BatchNorm2d(c, track_running_stats=False),
    "batch without weights": lambda c: nn.BatchNorm2d(c, affine=False),
    "local response": lambda c: nn.LocalResponseNorm(3),
}

ACTS: dict[str, Callable[[int], nn.Module]] = {
    "none": lambda c: nn.Identity(),
    "relu": lambda c: nn.ReLU(),
    "in-place": lambda c: nn.ReLU(inplace=True),
    "prelu": nn.PReLU,
    "gelu": lambda c: nn.GELU(),
    "dropout": lambda c: nn.Dropout2d(0.1),
}


def conv(c: int, width: int, part: Part, stride: int | None = None) -> nn.Conv2d:
    """The part's convolution; its groups made to divide the channels."""
    return nn.Conv2d(
        c, width, part.kernel,
        stride=part.stride if stride is None else stride,
        padding=part.dilation * (part.kernel // 2),
        dilation=part.dilation,
        groups=math.gcd(part.groups, c, width),
        bias=part.bias,
        padding_mode=part.padding_mode,
    )  # fmt: skip


def conv_norm_act(c: int, width: int, part: Part, stride: int | None = None) -> nn.Sequential:
    """Convolution, norm, activation."""
    return nn.Sequential(
        conv(c, width, part, stride), NORMS[part.norm](width), ACTS[part.act](width)
    )


class Residual(nn.Module):
    """Two convolutions and a shortcut, projected where the width or the size changes."""

    def __init__(self, c: int, part: Part, stride: int | None = None) -> None:
        super().__init__()
        stride = part.stride if stride is None else stride
        self.one = conv_norm_act(c, part.width, part, stride)
        self.two = nn.Conv2d(part.width, part.width, 3, padding=1, bias=part.bias)
        self.norm = NORMS[part.norm](part.width)
        same = c == part.width and stride == 1
        self.short = None if same else nn.Conv2d(c, part.width, 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.two(self.one(x)))
        y += x if self.short is None else self.short(x)
        return F.relu(y)


class Dense(nn.Module):
    """Convolutions that see all maps before them."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        growth = max(1, part.width // part.repeat)
        rest = part.width - growth * (part.repeat - 1)
        widths = [growth] * (part.repeat - 1) + [rest]
        self.layers = nn.ModuleList()
        for width in widths:
            self.layers.append(conv_norm_act(c, max(1, width), part, stride=1))
            c += max(1, width)
        self.fuse = nn.Conv2d(c, part.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = [x]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps, 1)))
        return self.fuse(torch.cat(maps, 1))


class Inception(nn.Module):
    """Branches of different kernels, concatenated."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        half = max(1, part.width // 2)
        self.one = nn.Conv2d(c, half, 1)
        self.wide = nn.Conv2d(c, max(1, part.width - half), (1, 3), padding=(0, 1))
        self.fuse = conv_norm_act(half + max(1, part.width - half), part.width, part, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.fuse(torch.cat([self.one(x), F.avg_pool2d(self.wide(x), 3, 1, 1)], dim=1))


class Shared(nn.Module):
    """One convolution called twice, and under two names."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.enter = conv(c, part.width, part)
        self.twice = self.again = nn.Conv2d(part.width, part.width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(F.relu(self.twice(self.enter(x))))


class Tied(nn.Module):
    """Two convolutions with one weight."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.enter = conv(c, part.width, part)
        self.one = nn.Conv2d(part.width, part.width, 3, padding=1)
        self.two = nn.Conv2d(part.width, part.width, 3, padding=1)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.one(self.enter(x)))


class Functional(nn.Module):
    """A convolution without a module, and one whose module's weight is read."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(part.width, c, 3, 3) / (3 * math.sqrt(c)))
        self.read = nn.Conv2d(part.width, part.width, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.conv2d(x, self.weight, padding=1), self.read.weight)


class OnShape(nn.Module):
    """One of two convolutions by the input's height; both give maps of one shape."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.large, self.small = (conv_norm_act(c, part.width, part) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.large(x) if x.shape[2] > 6 else self.small(x)


class OnData(nn.Module):
    """One of two convolutions by the sum of the input."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.plus, self.minus = (conv_norm_act(c, part.width, part) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(x) if x.sum() > 0 else self.minus(x)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.enter = conv_norm_act(c, part.width, part)
        self.reduce = nn.Linear(part.width, max(1, part.width // 2))
        self.excite = nn.Conv2d(max(1, part.width // 2), part.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        gate = F.relu(self.reduce(x.mean((2, 3))))[:, :, None, None]
        return x * torch.sigmoid(self.excite(gate))


class Flat(nn.Module):
    """Convolutions over the pixels in a row: there, and back from every second of them."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        groups, half = math.gcd(part.groups, c, part.width), part.kernel // 2
        settings = {"groups": groups, "bias": part.bias}
        self.conv = nn.Conv1d(
            c, part.width, part.kernel, part.stride, half, padding_mode=part.padding_mode,
            **settings,
        )  # fmt: skip
        self.norm = nn.BatchNorm1d(part.width)
        groups = math.gcd(part.groups, part.width)
        self.up = nn.ConvTranspose1d(
            part.width, part.width, part.kernel, part.stride, half, groups=groups, bias=part.bias
        )

    def forward(self, x: Tensor) -> Tensor:
        row = x.flatten(2)
        y = self.norm(self.conv(row))
        return self.up(y, [row.shape[2]]).unflatten(2, tuple(x.shape[2:]))


class Volume(nn.Module):
    """Convolutions over a volume of a few slices, and back; or of one alone."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.slices = part.repeat
        self.conv = nn.Conv3d(c, part.width, 3, padding=1, bias=part.bias)
        self.norm = nn.BatchNorm3d(part.width)
        self.up = nn.ConvTranspose3d(part.width, part.width, (1, 2, 2), (1, 2, 2), bias=part.bias)

    def forward(self, x: Tensor) -> Tensor:
        volume = torch.stack([x.roll(place, 3) for place in range(self.slices)], dim=2)
        return self.up(self.norm(self.conv(volume))).mean(2)


class Last(nn.Module):
    """Linear layers over the channels, which come last."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.norm, self.wide = nn.LayerNorm(c), nn.Linear(c, 2 * part.width, bias=part.bias)
        self.narrow = nn.Linear(2 * part.width, part.width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.narrow(F.gelu(self.wide(self.norm(x.permute(0, 2, 3, 1)))))
        return y.permute(0, 3, 1, 2)


class Attention(nn.Module):
    """Self-attention of the pixels, its products written out."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(c, 3 * part.width, 1)
        self.out = nn.Conv2d(part.width, part.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).flatten(2).transpose(1, 2).chunk(3, dim=-1)
        y = torch.softmax(q @ k.transpose(1, 2), -1) @ v
        return self.out(y.transpose(1, 2).unflatten(2, tuple(x.shape[2:])))


class Checkpointed(nn.Module):
    """Convolutions that are computed again in the backward pass."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.inner = conv_norm_act(c, part.width, part)

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self.inner, x, use_reentrant=False)


class Gathered(nn.Module):
    """Halves of the channels by index, shuffled."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.enter = conv(c, part.width, part)
        self.half = part.width // 2
        self.left = nn.Conv2d(max(1, self.half), max(1, self.half), 3, padding=1)
        self.register_buffer("order", torch.arange(part.width).flip(0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.enter(x)
        if self.half:
            x = torch.cat([self.left(x[:, : self.half]), x[:, self.half :]], dim=1)
        return x[:, self.order]


class ConvOf(nn.Conv2d):
    """A subclass of a convolution with a forward of its own."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class LastBlock(nn.Module):
    """A block on maps with the channels last, a convolution between permutations."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.mixer = nn.Conv2d(c, c, 3, padding=1, groups=c)
        self.norm, self.up, self.down = nn.LayerNorm(c), nn.Linear(c, 2 * c), nn.Linear(2 * c, c)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.down(self.up(self.norm(x)).relu())


class LastStage(nn.Module):
    """A stage of such blocks."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        self.enter = conv(c, part.width, part)
        self.blocks = nn.Sequential(*(LastBlock(part.width) for _ in range(part.repeat)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.enter(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class WindowBlock(nn.Module):
    """Convolutions, then attention in windows that its input is padded to; its heads are fixed."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(c, 2 * c, 1), nn.Conv2d(2 * c, c, 1)
        self.attention = WindowAttention(c)

    def forward(self, x: Tensor) -> Tensor:
        return self.attention(x + self.narrow(self.wide(x).relu()))


class WindowAttention(nn.Module):
    """Attention of two heads of three channels in windows of 4 x 4."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.qkv, self.merge = nn.Linear(c, 18), nn.Linear(6, c)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        down, right = -h % 4, -w % 4
        padded = x
        if down or right:
            padded = F.pad(x, (0, right, 0, down))
        rows, columns = (h + down) // 4, (w + right) // 4
        windows = padded.view(n, c, rows, 4, columns, 4).permute(0, 2, 4, 3, 5, 1)
        tokens = self.qkv(windows.reshape(-1, 16, c)).reshape(-1, 16, 3, 2, 3)
        q, k, v = tokens.permute(2, 0, 3, 1, 4).unbind(0)
        seen = (q @ k.transpose(-1, -2)).softmax(-1) @ v
        out = self.merge(seen.transpose(1, 2).reshape(-1, 16, 6))
        out = out.view(n, rows, columns, 4, 4, c).permute(0, 5, 1, 3, 2, 4)
        return x + out.reshape(n, c, h + down, w + right)[:, :, :h, :w]


def _window_stage(c: int, part: Part) -> nn.Module:
    blocks = (WindowBlock(part.width) for _ in range(part.repeat))
    return nn.Sequential(conv(c, part.width, part), nn.Sequential(*blocks))


class InnerStage(nn.Module):
    """A run of bottlenecks whose every output goes into a concat too (YOLO's C2f)."""

    def __init__(self, c: int, part: Part) -> None:
        super().__init__()
        width = max(2, part.width)
        self.enter = nn.Conv2d(c, 2 * width, 1)
        self.inner = nn.ModuleList(
            Residual(width, replace(part, width=width), stride=1) for _ in range(part.repeat)
        )
        self.leave = nn.Conv2d((2 + part.repeat) * width, part.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        maps = list(self.enter(x).chunk(2, dim=1))
        for block in self.inner:
            maps.append(block(maps[-1]))
        return self.leave(torch.cat(maps, dim=1))


def _transposed(c: int, part: Part) -> nn.Module:
    groups = math.gcd(part.groups, c, part.width)
    up = nn.ConvTranspose2d(
        c, part.width, part.kernel, part.stride, dilation=part.dilation, groups=groups
    )
    return nn.Sequential(up, NORMS[part.norm](part.width), ACTS[part.act](part.width))


def _separable(c: int, part: Part) -> nn.Module:
    depthwise = nn.Conv2d(c, 2 * c, 3, padding=1, groups=c, bias=False)
    return nn.Sequential(depthwise, NORMS[part.norm](2 * c), nn.Conv2d(2 * c, part.width, 1))


def _parametrised(kind: str) -> Callable[[int, Part], nn.Module]:
    def build(c: int, part: Part) -> nn.Module:
        layer = conv(c, part.width, part)
        if kind == "weight norm":
            return parametrizations.weight_norm(layer)
        if kind == "spectral norm":
            return parametrizations.spectral_norm(layer)
        return torch.nn.utils.weight_norm(layer)

    return build


def _lazy(c: int, part: Part) -> nn.Module:
    return nn.Sequential(
        nn.LazyConv2d(part.width, part.kernel, padding=part.kernel // 2), nn.LazyBatchNorm2d()
    )


def _stage(c: int, part: Part) -> nn.Module:
    width = part.width + part.width % 2 if part.block == "Shuffle" else part.width
    width = max(4, width)
    block = BLOCKS[part.block]
    groups = math.gcd(part.groups, width)
    blocks = nn.Sequential(*(block(width, groups) for _ in range(part.repeat)))
    leave = nn.Identity() if width == part.width else nn.Conv2d(width, part.width, 1)
    return nn.Sequential(nn.Conv2d(c, width, 1), blocks, leave)


def _residual_stage(c: int, part: Part) -> nn.Module:
    rest = (Residual(part.width, part, stride=1) for _ in range(part.repeat - 1))
    return nn.Sequential(Residual(c, part), *rest)


def _shared_stage(c: int, part: Part) -> nn.Module:
    block = Residual(part.width, part, stride=1)
    return nn.Sequential(conv(c, part.width, part), *[block] * part.repeat)


def _pool(c: int, part: Part) -> nn.Module:
    return nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), nn.Conv2d(c, part.width, 1))


def _upsample(c: int, part: Part) -> nn.Module:
    return nn.Sequential(nn.Upsample(scale_factor=2), conv(c, part.width, part))


def _subclass(c: int, part: Part) -> nn.Module:
    return ConvOf(c, part.width, part.kernel, part.stride, part.kernel // 2, bias=part.bias)


PARTS: dict[str, Callable[[int, Part], nn.Module]] = {
    "conv": lambda c, part: conv_norm_act(c, part.width, part),
    "bare": lambda c, part: conv(c, part.width, part),
    "residual": Residual,
    "residual stage": _residual_stage,
    "stage": _stage,
    "shared stage": _shared_stage,
    "channels-last stage": LastStage,
    "window stage": _window_stage,
    "inner stage": InnerStage,
    "dense": Dense,
    "inception": Inception,
    "separable": _separable,
    "transposed": _transposed,
    "shared": Shared,
    "tied": Tied,
    "functional": Functional,
    "on shape": OnShape,
    "on data": OnData,
    "gate": Gate,
    "flat": Flat,
    "volume": Volume,
    "last": Last,
    "attention": Attention,
    "checkpointed": Checkpointed,
    "gathered": Gathered,
    "subclass": _subclass,
    "weight norm": _parametrised("weight norm"),
    "spectral norm": _parametrised("spectral norm"),
    "old weight norm": _parametrised("old weight norm"),
    "lazy": _lazy,
    "pool": _pool,
    "upsample": _upsample,
}
"""The kinds; a new one is one more entry."""
