"""What to run a network on when only its shapes matter: the caller's example, or one worked out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from ghostify.errors import SettingsError

ExampleInputs = Tensor | Sequence[Any] | Mapping[str, Any]
"""What a caller may give: one tensor, the positional arguments, or the keyword arguments."""

DEFAULT_SIZE = 224
DEFAULT_CHANNELS = (3, 1)
# Tried in turn when a network can't take 224 x 224 and its own configuration names no size.
OTHER_SIZES = (32, 28, 64, 96, 128, 256, 299, 384, 448, 512)


@dataclass(frozen=True)
class Inputs:
    """Arguments for one forward pass, on the meta device.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        assumed: Whether ghostify worked them out itself.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    assumed: bool = False

    def __str__(self) -> str:
        shapes = [
            "x".join(map(str, leaf.shape))
            for leaf in pytree.tree_leaves((self.args, dict(self.kwargs)))
            if isinstance(leaf, Tensor)
        ]
        return ", ".join(shapes) or "no tensor"


def candidate_inputs(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> Iterator[Inputs]:
    """The inputs to try, best first; exactly one when the caller said what it is.

    Args:
        model: The network; its first Conv2d tells channels and dtype, its configuration the size.
        example_inputs: What its ``forward`` takes; only shapes and dtypes are used.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.

    Raises:
        SettingsError: ``input_size`` has no positive numbers, or fewer than one.
    """
    if example_inputs is not None:
        yield _from_example(example_inputs)
        return
    dtype, images = dtype_of(model), _required_arguments(model)
    if input_size is not None:
        sizes = tuple(input_size)
        if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
            raise SettingsError(f"input_size={input_size!r} makes no sense: give (C, H, W).")
        yield _image(sizes, dtype, images, assumed=False)
        return
    for sizes in dict.fromkeys(_likely_sizes(model)):
        yield _image(sizes, dtype, images)


def _likely_sizes(model: nn.Module) -> Iterator[tuple[int, ...]]:
    """Sizes of the image that the network may take, best first."""
    channels, dimensions = _first_conv(model)
    if dimensions != 2:
        for size in (112, DEFAULT_SIZE, *OTHER_SIZES):
            yield (channels, size) if dimensions == 1 else (channels, 16, size, size)
        return
    configured = _configured_size(model)
    if configured is not None:
        # The channels of the network as it is: a configuration may be that of its pretrained twin.
        yield (channels, *configured[-2:])
        yield configured if len(configured) == 3 else (DEFAULT_CHANNELS[0], *configured)
    # Ordinary images last: where something comes before the first convolution (space-to-depth, a
    # colour transform), or the module list begins with another one.
    for image_channels in (channels, *DEFAULT_CHANNELS):
        for size in (DEFAULT_SIZE, *OTHER_SIZES):
            yield (image_channels, size, size)


def _from_example(example_inputs: ExampleInputs) -> Inputs:
    """The caller's example as arguments on the meta device."""

    def hollow(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and not leaf.is_meta:
            return torch.empty_like(leaf, device="meta")
        return leaf

    if isinstance(example_inputs, Tensor):
        return Inputs(args=(hollow(example_inputs),))
    if isinstance(example_inputs, Mapping):
        return Inputs(kwargs=pytree.tree_map(hollow, dict(example_inputs)))
    return Inputs(args=pytree.tree_map(hollow, tuple(example_inputs)))


def _image(sizes: Sequence[int], dtype: torch.dtype, images: int, assumed: bool = True) -> Inputs:
    image = torch.empty(1, *sizes, dtype=dtype, device="meta")
    return Inputs(args=(image,) * images, assumed=assumed)


def _required_arguments(model: nn.Module) -> int:
    """How many images ``forward`` can't do without: two for a pair, as in optical flow."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(model.forward).parameters.values()
    required = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return max(1, len(required))


def dtype_of(model: nn.Module) -> torch.dtype:
    """Type of a network's first floating-point parameter."""
    floats = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    return next(floats, torch.float32)


def _first_conv(model: nn.Module) -> tuple[int, int]:
    """Input channels of the first convolution, and how many dimensions it slides over."""
    convs = (m for m in model.modules() if isinstance(m, _ConvNd))
    first = next(convs, None)
    return (3, 2) if first is None else (first.in_channels, len(first.kernel_size))


def _configured_size(model: nn.Module) -> tuple[int, ...] | None:
    """The input size that the network's own configuration names, whoever wrote it."""
    for owner in (model, *model.children()):
        for name in ("pretrained_cfg", "default_cfg", "config"):
            config = getattr(owner, name, None)
            size = _read(config, "input_size") or _read(config, "image_size")
            if size is not None:
                return size
        size = _read(owner, "image_size") or _read(owner, "img_size") or _read(owner, "input_size")
        if size is not None:
            return size
    return None


def _read(config: Any, name: str) -> tuple[int, ...] | None:
    value = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return (value, value)
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) in (2, 3):
        return tuple(value) if all(isinstance(v, int) and v > 0 for v in value) else None
    return None
