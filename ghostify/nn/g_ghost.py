"""The G-Ghost stage (Section 4, Eq. 6-12, Figures 5-6) and its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ghostify.errors import SettingsError
from ghostify.nn.filters import NORMS, plain_conv
from ghostify.nn.order import Ordered

Cheap = Literal[1, 3, 5, "identity", "none"]
Entry = Literal["slice", "project"]
Mixing = Literal["fc", "mlp"]
MixFrom = Literal["all", "thin"]


class ChannelsLast(nn.Sequential):
    """Layers for maps ``(N, C, H, W)`` that take and give maps with the channels last.

    Shape:
        - Input: ``(N, H, W, C_in)``
        - Output: ``(N, H, W, C_out)``
    """

    def forward(self, x: Tensor) -> Tensor:
        """The layers' output, its channels last."""
        return super().forward(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def projection(
    arriving: Tensor, leaving: Tensor, like: Tensor, channels_last: bool = False, dims: int = 2
) -> nn.Sequential:
    """A 1x1 convolution and its norm that start as the selection of channels.

    Args:
        arriving: Numbers of the channels that come in, ``(in,)``.
        leaving: Numbers of the channels that go out, ``(out,)``; what did not come in starts as 0.
        like: A tensor whose device and dtype the parameters get.
        channels_last: Whether it is for maps ``(N, H, W, C)``.
        dims: Dimensions of the maps.
    """
    conv = plain_conv(len(arriving), len(leaving), 1, like, dims)
    if not conv.weight.is_meta:
        with torch.no_grad():
            weight = (leaving[:, None] == arriving[None, :]).to(conv.weight)
            conv.weight.copy_(weight.view_as(conv.weight))
    kind = ChannelsLast if channels_last else nn.Sequential
    return kind(conv, _norm(len(leaving), like, dims))


def cheap_operation(
    in_channels: int, out_channels: int, kernel: int, like: Tensor, dims: int = 2
) -> nn.Module:
    """The cheap operation C of Eq. 9: a convolution with "same" padding, and its norm.

    It starts as the identity of its last ``out_channels`` inputs.

    Args:
        in_channels: Its inputs.
        out_channels: The ghosts.
        kernel: Size of the kernel in each dimension.
        like: A tensor whose device and dtype the parameters get.
        dims: Dimensions of the maps.
    """
    conv = plain_conv(in_channels, out_channels, kernel, like, dims)
    if not conv.weight.is_meta:
        with torch.no_grad():
            channels = torch.arange(out_channels, device=conv.weight.device)
            select_inputs(conv, (channels + max(in_channels - out_channels, 0)) % in_channels)
    return nn.Sequential(conv, _norm(out_channels, like, dims))


def select_inputs(conv: _ConvNd, inputs: Tensor) -> None:
    """Make each output of a convolution one of its inputs, ``(out,)``, as it is."""
    conv.weight.zero_()
    outputs = torch.arange(len(inputs), device=inputs.device)
    middle = (outputs.new_tensor(size // 2) for size in conv.kernel_size)
    conv.weight[(outputs, inputs, *middle)] = 1


def _norm(channels: int, like: Tensor, dims: int = 2) -> _BatchNorm:
    return NORMS[dims](channels, device=like.device, dtype=like.dtype)


def pool(maps: Tensor) -> Tensor:
    """Means of maps ``(N, C, *size)`` over all places, ``(N, C, 1, ...)``."""
    return maps.mean(dim=tuple(range(2, maps.ndim)), keepdim=True)


class Mix(nn.Module):
    """The mix tau of Eq. 11-12: pooled features of the complicated path, transformed.

    ``kind="fc"`` is Eq. 12, one fully connected layer with bias; ``"mlp"`` is two 1x1 convolutions
    without bias, each with its norm, a ReLU between (what the RegNet experiments have). It starts
    at zero, so that a stage begins as if it had none.

    Args:
        in_channels: Channels c' of all pooled features together.
        out_channels: Ghost channels.
        kind: ``"fc"`` or ``"mlp"``.
        device: Where the parameters are.
        dtype: Type of the parameters.
        dims: Dimensions of the maps.

    Shape:
        - Input: a list of ``(N, C_i, H, W)`` (any size) with ``sum(C_i) == in_channels``
        - Output: ``(N, out_channels, 1, 1)``, with a 1 for each dimension of the maps

    Example:
        >>> Mix(24, 8)([torch.ones(2, 16, 4, 4), torch.ones(2, 8, 4, 4)]).shape
        torch.Size([2, 8, 1, 1])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kind: Mixing = "fc",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        dims: int = 2,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels, self.kind = in_channels, out_channels, kind
        factory = {"device": device, "dtype": dtype}
        like = torch.empty(0, **factory)  # type: ignore[arg-type]
        if kind == "fc":
            # A 1x1 convolution on pooled maps: a fully connected layer by another name.
            self.fc = plain_conv(in_channels, out_channels, 1, like, dims, bias=True)
            assert self.fc.bias is not None
            parts: list[Tensor] = [self.fc.weight, self.fc.bias]
        else:
            self.conv1 = plain_conv(in_channels, out_channels, 1, like, dims)
            self.bn1 = _norm(out_channels, like, dims)
            self.relu = nn.ReLU(inplace=True)
            self.conv2 = plain_conv(out_channels, out_channels, 1, like, dims)
            self.bn2 = _norm(out_channels, like, dims)
            self._spread(self.conv1, self.conv2)
            # Zero only at the end: what comes before must have a gradient once this moves.
            parts = [self.bn2.weight, self.bn2.bias]
        for parameter in parts:
            if not parameter.is_meta:
                nn.init.zeros_(parameter)

    @staticmethod
    def _spread(*convs: _ConvNd) -> None:
        """Start from fixed well-spread weights: what a cosine transform has, scaled as He's."""
        for conv in convs:
            if conv.weight.is_meta:
                continue
            outputs, inputs = conv.weight.shape[:2]
            places = torch.arange(inputs, dtype=torch.float64) + 0.5
            waves = torch.arange(1, outputs + 1, dtype=torch.float64)
            basis = torch.cos(torch.pi / max(inputs, outputs) * waves[:, None] * places)
            weight = basis * (4 / inputs) ** 0.5
            with torch.no_grad():
                conv.weight.copy_(weight.view_as(conv.weight))

    def forward(self, features: list[Tensor]) -> Tensor:
        """From the features of the complicated path to what is added to the ghosts."""
        pooled = torch.cat([pool(x) for x in features], dim=1)
        if self.kind == "fc":
            return self.fc(pooled)
        hidden = self.relu(self.bn1(self.conv1(pooled)))
        return self.bn2(self.conv2(hidden))

    def extra_repr(self) -> str:
        """Text that ``print(model)`` shows beside the parts."""
        return f"{self.in_channels}, {self.out_channels}, {self.kind!r}"


class GGhostStage(Ordered):
    """A stage that computes part of its channels with all its blocks, the others from the first.

    ``first`` gives Y1 (Eq. 6); the ``thin`` blocks make the complicated channels of it (Eq. 8), the
    ``cheap`` operation the ghost channels (Eq. 9), to which ``mix`` adds what the thin blocks found
    (Eq. 11); then the concat (Eq. 10). With a ``last`` block, which is as wide as the original, the
    concat comes before it (as in the experiments), without one it is the output.

    Which channels are complicated is free: a buffer ``order`` says for each channel its place in
    the concat; None where the complicated ones are the first.

    Args:
        first: The first block, ``(N, C', H', W')`` to ``(N, channels, H, W)``.
        thin: The thin blocks; the first takes ``complicated`` channels, or all (``entry``).
        cheap: The cheap operation; None where ghosts are channels of Y1, or there are none.
        mix: The mix operation, or None.
        last: The last block, or None.
        channels: Channels c of the stage.
        complicated: Channels r that the thin blocks make.
        entry: ``"slice"``: the thin path takes the ``complicated`` channels of Y1 and the cheap
            operation the others; ``"project"``: both take all.
        mix_from: What the mix pools: ``"all"`` of Y1 and the thin blocks' outputs, or ``"thin"``.
        ghost_act: Whether a ReLU follows the cheap operation and the mix.
        ghosts: False where there are none, and the last thin block makes all channels.
        channels_last: Whether what the blocks give has the channels last, ``(N, H, W, channels)``;
            cheap operation and mix work on views with the channels first.

    Shape:
        - Input: what ``first`` takes, ``(N, C', H', W')``
        - Output: ``(N, channels, H, W)``, or ``(N, H, W, channels)``

    Maps of one or three dimensions, ``(N, C, L)`` or ``(N, C, D, H, W)``, do as well.

    Raises:
        SettingsError: ``complicated`` is not between 1 and ``channels``.

    Example:
        >>> block = lambda c: nn.Conv2d(c, c, 3, padding=1)
        >>> stage = GGhostStage(block(8), [block(4)], cheap=None, mix=None, last=block(8),
        ...                     channels=8, complicated=4)
        >>> stage(torch.zeros(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(
        self,
        first: nn.Module,
        thin: Sequence[nn.Module],
        cheap: nn.Module | None,
        mix: Mix | None,
        last: nn.Module | None,
        *,
        channels: int,
        complicated: int,
        entry: Entry = "slice",
        mix_from: MixFrom = "all",
        ghost_act: bool = False,
        ghosts: bool = True,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        if not 1 <= complicated <= channels:
            raise SettingsError(
                f"complicated={complicated} makes no sense: give 1 to {channels} channels."
            )
        self.channels, self.complicated = channels, complicated
        self.entry, self.mix_from, self.ghosts = entry, mix_from, ghosts
        self.channels_last = channels_last
        self.first = first
        self.thin = nn.ModuleList(thin)
        self.cheap = cheap
        self.mix = mix
        self.ghost_act = nn.ReLU() if ghost_act else None
        self.last = last
        self.register_buffer("order", None)

    def forward(self, x: Tensor) -> Tensor:
        """The stage's output."""
        y1 = self.first(x)
        out = self.entering(y1)
        features = [y1] if self.mix_from == "all" else []
        for block in self.thin:
            out = block(out)
            features.append(out)
        out = self.join(out, y1, features)
        return out if self.last is None else self.last(out)

    def join(self, complicated: Tensor, y1: Tensor, features: list[Tensor]) -> Tensor:
        """The concat of the complicated channels and the ghosts (Eq. 10-11), in their order.

        Args:
            complicated: What the last thin block gives, ``(N, r, H, W)``.
            y1: What the first block gives, ``(N, c, H, W)``.
            features: What the mix pools, ``(N, C_i, H, W)`` each; pooled maps do as well.

        Where ``channels_last``, each is ``(N, H, W, C)``, and so is what comes out.
        """
        if not self.ghosts:
            return complicated
        parts = [self.as_maps(complicated), self._make_ghosts(y1, features)]
        out = torch.cat(parts, dim=1)
        return self.in_layout(out if self.order is None else self._select(out, self.order, 1))

    def as_maps(self, x: Tensor) -> Tensor:
        """What a block gives as maps ``(N, C, H, W)``; a view where its channels are last."""
        return x.permute(0, 3, 1, 2) if self.channels_last else x

    def in_layout(self, maps: Tensor) -> Tensor:
        """Maps ``(N, C, H, W)`` as blocks take them; a view where these want the channels last."""
        return maps.permute(0, 2, 3, 1) if self.channels_last else maps

    def entering(self, y1: Tensor) -> Tensor:
        """Channels of Y1 that the thin path takes."""
        if self.entry == "project":
            return y1
        return self.in_layout(self._in_concat(self.as_maps(y1))[:, : self.complicated])

    def cheapened(self, y1: Tensor) -> Tensor:
        """Channels of Y1 that the cheap operation takes, as maps; without one, the ghosts."""
        maps = self.as_maps(y1)
        if self.cheap is not None and self.entry == "project":
            return maps
        return self._in_concat(maps)[:, self.complicated :]

    def chosen(self) -> Tensor:
        """The channels in the order of the concat: the complicated ones first, ``(channels,)``."""
        if self.order is None:
            return torch.arange(self.channels)
        return self.order.argsort()

    def set_order(self, chosen: Tensor | None) -> None:
        """Say which channels are complicated, and in which order the ghosts follow.

        Args:
            chosen: All channels in the order of the concat, ``(channels,)``; None for the plain.

        Raises:
            SettingsError: It is no order of all channels.
        """
        plain = torch.arange(self.channels)
        chosen = plain if chosen is None else chosen.cpu()
        if not torch.equal(chosen.sort().values, plain):
            raise SettingsError(
                f"The order {chosen.tolist()} makes no sense: "
                f"name each of the {self.channels} channels once."
            )
        order = None if torch.equal(chosen, plain) else chosen.argsort()
        self.order = None if order is None else order.to(next(self.parameters()).device)

    def _in_concat(self, maps: Tensor) -> Tensor:
        """Channels in the order of the concat."""
        return maps if self.order is None else self._select(maps, self.order.argsort(), 1)

    def _make_ghosts(self, y1: Tensor, features: list[Tensor]) -> Tensor:
        ghosts = self.cheapened(y1)
        if self.cheap is not None:
            ghosts = self.cheap(ghosts)
        if self.mix is not None:
            ghosts = ghosts + self.mix([self.as_maps(x) for x in features])
        return ghosts if self.ghost_act is None else self.ghost_act(ghosts)

    def extra_repr(self) -> str:
        """Text that ``print(model)`` shows beside the parts."""
        ghost = f"{self.channels - self.complicated} ghost" if self.ghosts else "no ghosts"
        layout = ", channels last" if self.channels_last else ""
        return f"{self.channels} = {self.complicated} + {ghost}, entry={self.entry!r}{layout}"
