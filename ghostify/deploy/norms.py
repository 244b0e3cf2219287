"""Batch norms folded into the layers before them."""

from __future__ import annotations

import copy
from collections.abc import Container

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.fusion import fuse_conv_bn_weights

from ghostify.deploy.channel_spaces import called_once
from ghostify.deploy.ghosts import FusedGhost, is_hooked
from ghostify.nn.filters import NORMS
from ghostify.nn.swap import replace_modules


def fold_norms(
    graph: fx.Graph,
    module: nn.Module,
    kinds: tuple[type[nn.Module], ...],
    only: Container[nn.Module] | None = None,
) -> int:
    """Fold batch norms into the layers before them, where nothing else reads those.

    Args:
        graph: A graph of ``module``.
        module: In eval mode; changed in place.
        kinds: The layers that are folded into: plain convolutions, or fused ghost modules.
        only: Of these the ones that are folded into; all if not given.

    Returns:
        How many were folded.
    """
    once = called_once(graph, module)
    count = 0
    for node, norm in once.items():
        before = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
        layer = None if before is None or len(before.users) > 1 else once.get(before)
        if not isinstance(layer, kinds) or not isinstance(norm, _BatchNorm):
            continue
        if only is not None and layer not in only:
            continue
        rest = what_remains(norm) if is_foldable(norm) else None
        if rest is not None and _fold(layer, norm):
            replace_modules(module, {norm: rest})
            count += 1
    return count


def _fold(layer: nn.Module, norm: _BatchNorm) -> bool:
    """Fold a norm into a layer in place; False where the layer can't hold it."""
    if isinstance(layer, FusedGhost):
        return fold_into_ghost(layer, norm)
    assert isinstance(layer, _ConvNd)
    if not is_open_conv(layer):
        return False
    fold_into(layer, norm)
    return True


@torch.no_grad()
def fold_into_ghost(ghost: FusedGhost, norm: _BatchNorm) -> bool:
    """Fold a norm into the cheap convolutions; what the intrinsic maps get of it stays a norm.

    Folded into the primary convolution its shift would reach the cheap operation's borders, where
    padding has none; as a norm of half the maps it is exact.
    """
    m = ghost.primary.out_channels
    order = ghost.order
    if order is not None and len(order) != sum(ghost.sizes):
        return False
    place = torch.arange(norm.num_features) if order is None else order.argsort().cpu()
    start = m
    for conv, gives in zip(ghost.cheap, ghost.gives, strict=True):
        assert isinstance(conv, _ConvNd)
        if not is_open_conv(conv):
            return False
        channels = place[start : start + gives]
        fold_into(conv, _part_of(norm, channels, conv))
        start += gives
    ghost.norm = _part_of(norm, place[:m], ghost.primary)
    return True


def _part_of(norm: _BatchNorm, channels: Tensor, conv: _ConvNd) -> _BatchNorm:
    """The norm of some of a convolution's channels, the first; it leaves the others alone."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    like = norm.running_mean
    kind = NORMS[len(conv.kernel_size)]
    part = kind(conv.out_channels, norm.eps, device=like.device, dtype=like.dtype).eval()
    assert part.running_mean is not None
    assert part.running_var is not None
    with torch.no_grad():
        for name in ("running_mean", "running_var", "weight", "bias"):
            own = getattr(norm, name)
            if own is not None:
                getattr(part, name)[: len(channels)] = own[channels.to(own.device)]
    return part.requires_grad_(norm.weight is not None and norm.weight.requires_grad)


def is_open_conv(conv: _ConvNd) -> bool:
    """Whether a convolution's weight is what it computes with: no hooks, no parametrization."""
    has_own = conv._parameters.keys() == {"weight", "bias"}
    return has_own and not is_hooked(conv)


def is_foldable(norm: _BatchNorm) -> bool:
    """Whether a norm in eval mode is a fixed scale and shift that nothing listens to."""
    is_fixed = not norm.training and norm.running_mean is not None
    return is_fixed and not norm._forward_hooks and not norm._forward_pre_hooks


@torch.no_grad()
def fold_into(conv: _ConvNd, norm: _BatchNorm) -> None:
    """Change a convolution so that it gives what the norm after it gave; worked out in float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    optional = (conv.bias, norm.weight, norm.bias)
    bias, scale, shift = (None if tensor is None else tensor.double() for tensor in optional)
    new_weight, new_bias = fuse_conv_bn_weights(
        conv.weight.double(), bias, norm.running_mean.double(), norm.running_var.double(),
        norm.eps, scale, shift, transpose=conv.transposed,
    )  # fmt: skip
    conv.weight.copy_(new_weight)
    like = conv.weight
    conv.bias = nn.Parameter(new_bias.to(like), requires_grad=like.requires_grad)


def what_remains(norm: _BatchNorm) -> nn.Module | None:
    """What a norm does after its scale and shift: nothing, or what its subclass adds to it.

    A subclass may call parts of its own afterwards, as a norm with an activation does. Whether it
    does that and no more is tried on numbers; None where it does something else.
    """
    parts = [part for part in norm.children() if not isinstance(part, nn.Identity)]
    rest: nn.Module = nn.Identity()
    if parts:
        rest = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    if type(norm).forward is _BatchNorm.forward:
        return nn.Identity()
    twin = copy.deepcopy(norm).double().eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, norm.num_features, 4, 4, generator=generator, dtype=torch.float64)
    x = x.to(next(iter(twin.buffers())).device)
    try:
        expected, got = twin(x.clone()), copy.deepcopy(rest)(_BatchNorm.forward(twin, x.clone()))
    except Exception:
        return None
    return rest if torch.equal(expected, got) else None


def norms_to_convolutions(network: nn.Module) -> None:
    """Make each batch norm of images that is left a depth-wise 1 x 1 convolution, in place.

    For int8: runtimes have no norm in integers, and would go to floats and back around it.

    Args:
        network: An inference form, in eval mode.
    """
    norms = [m for m in network.modules() if type(m) is nn.BatchNorm2d]
    found: dict[nn.Module, nn.Module] = {
        norm: _as_convolution(norm) for norm in norms if norm.running_mean is not None
    }
    replace_modules(network, found)


@torch.no_grad()
def _as_convolution(norm: nn.BatchNorm2d) -> nn.Conv2d:
    mean, var = norm.running_mean, norm.running_var
    assert mean is not None and var is not None
    n = norm.num_features
    conv = nn.Conv2d(n, n, 1, groups=n, device=mean.device, dtype=mean.dtype)
    assert conv.bias is not None
    scale = (var + norm.eps).rsqrt() * (1 if norm.weight is None else norm.weight)
    conv.weight.copy_(scale.view(-1, 1, 1, 1))
    conv.bias.copy_((0 if norm.bias is None else norm.bias) - mean * scale)
    return conv.eval()
