"""Inputs to run a network on when only shapes matter: the caller's example, or one worked out."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from ghostify.errors import SettingsError, shown

ExampleInputs = Union[Tensor, Sequence[Any], Mapping[str, Any], "Inputs"]
"""Example inputs: one tensor, the positional arguments, the keyword arguments, or both."""

NO_TENSOR = "no tensor"
"""Text for `Inputs` without tensors."""
DEFAULT_SIZE = 224
DEFAULT_CHANNELS = (3, 1)
LARGEST = 2**40
"""Values of an image at most: beyond it, sizes of tensors overflow."""
# Tried in turn when a network can't take 224 x 224 and its own configuration names no size.
OTHER_SIZES = (32, 28, 64, 96, 128, 256, 299, 384, 448, 512)


@dataclass(frozen=True)
class Inputs:
    """Arguments for one forward pass, on the meta device.

    Attributes:
        args: Positional arguments.
        kwargs: Keyword arguments.
        assumed: Whether ghostify worked them out itself.
        given: The caller's own arguments, positional and by keyword, where they have data.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    assumed: bool = False
    given: tuple[tuple[Any, ...], Mapping[str, Any]] | None = field(
        default=None, compare=False, repr=False
    )

    @property
    def example(self) -> ExampleInputs:
        """The same as a caller would give it, with the data if there is any."""
        args, kwargs = self.given or (self.args, self.kwargs)
        if args and kwargs:
            return Inputs(args, kwargs)
        return dict(kwargs) if kwargs else args

    @property
    def has_data(self) -> bool:
        """Whether the caller gave a tensor with data."""
        return any(isinstance(x, Tensor) and not x.is_meta for x in pytree.tree_leaves(self.given))

    def filled(self, device: torch.device) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments as real tensors: copies of the caller's, else numbers made up.

        Those are uniform in 0..1, always the same ones; whole numbers are 0, an index that is
        always there.
        """
        generator = torch.Generator().manual_seed(0)

        def fill(leaf: Any) -> Any:
            if not isinstance(leaf, Tensor):
                return leaf
            if not leaf.is_meta:
                return leaf.detach().to(device, copy=True)
            if leaf.dtype.is_floating_point:
                return torch.rand(leaf.shape, generator=generator).to(device, leaf.dtype)
            return torch.zeros(leaf.shape, dtype=leaf.dtype, device=device)

        args, kwargs = self.given or (self.args, self.kwargs)
        filled: tuple[tuple[Any, ...], dict[str, Any]] = pytree.tree_map(fill, (args, dict(kwargs)))
        return filled

    def __str__(self) -> str:
        shapes = [
            "x".join(map(str, leaf.shape))
            for leaf in pytree.tree_leaves((self.args, dict(self.kwargs)))
            if isinstance(leaf, Tensor)
        ]
        return ", ".join(shapes) or NO_TENSOR


def candidate_inputs(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> Iterator[Inputs]:
    """The inputs to try, best first; exactly one when the caller said what it is.

    Args:
        model: The network; its first Conv2d tells channels and dtype, its configuration the size.
        example_inputs: What its ``forward`` takes; shapes and dtypes matter, and values where the
            network has to be run for real.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.

    Raises:
        SettingsError: ``input_size`` has no positive numbers, or fewer than one.
    """
    if example_inputs is not None:
        yield _from_example(example_inputs)
        return
    dtype, images = dtype_of(model), _required_arguments(model)
    if input_size is not None:
        sizes = tuple(input_size) if isinstance(input_size, Iterable) else ()
        if not sizes or any(not isinstance(size, int) or size < 1 for size in sizes):
            raise SettingsError(f"input_size={input_size!r} makes no sense: give (C, H, W).")
        if math.prod(sizes) > LARGEST:
            raise SettingsError(
                f"input_size={input_size!r} makes no sense: no image has so many values."
            )
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

    def meta(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) and not leaf.is_meta:
            return torch.empty_like(leaf, device="meta")
        return leaf

    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, Inputs):
        args, kwargs = example_inputs.args, dict(example_inputs.kwargs)
    elif isinstance(example_inputs, Tensor):
        args = (example_inputs,)
    elif isinstance(example_inputs, Mapping):
        kwargs = dict(example_inputs)
    elif isinstance(example_inputs, Iterable):
        args = tuple(example_inputs)
    else:
        raise SettingsError(
            f"example_inputs={shown(example_inputs)} makes no sense: give what the network's "
            "forward takes, a tensor, a tuple or a mapping."
        )
    shapes = pytree.tree_map(meta, (args, kwargs))
    return Inputs(args=shapes[0], kwargs=shapes[1], given=(args, kwargs))


def _image(sizes: Sequence[int], dtype: torch.dtype, images: int, assumed: bool = True) -> Inputs:
    image = torch.empty(1, *sizes, dtype=dtype, device="meta")
    return Inputs(args=(image,) * images, assumed=assumed)


def _required_arguments(model: nn.Module) -> int:
    """How many images ``forward`` can't do without: two for a pair, as in optical flow."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = forward_parameters(model).values()
    required = [p for p in parameters if p.kind in positional and p.default is p.empty]
    return max(1, len(required))


def forward_parameters(model: nn.Module) -> Mapping[str, inspect.Parameter]:
    """The parameters of a network's forward; none where it tells none (traced by TorchScript)."""
    try:
        return inspect.signature(model.forward).parameters
    except (TypeError, ValueError):
        return {}


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


def image_size(inputs: str) -> tuple[int, ...]:
    """Of one input ("1x3x32x32") what follows the batch; nothing where there are several."""
    return tuple(int(n) for n in inputs.split("x")[1:]) if inputs and "," not in inputs else ()
