"""Random networks, built from a description that is printed, shrunk and built again alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ghostify.nn.memory_format import to_channels_last
from tests.fuzz.parts import ACTS, NORMS, PARTS, Part
from tests.passes.blocks import KINDS as BLOCKS

INPUTS = ("one", "two", "optional", "keyword", "list")
OUTPUTS = ("tensor", "tuple", "list", "dict", "nested", "named", "more in training")
HOLDERS = ("sequential", "list", "dict", "attributes")
MODES = ("eval", "train", "frozen norms")
HOOKS = ("none", "post", "pre", "method", "changing", "keywords", "backward")
STAGES = tuple(kind for kind in PARTS if "stage" in kind)
WIDTHS = (8, 16, 12, 24, 16, 12, 20, 6, 7, 17, 3, 5, 2, 1)


@dataclass(frozen=True, repr=False)
class Description:
    """All that a random network is."""

    parts: tuple[Part, ...] = (Part(),)
    channels: int = 3
    size: tuple[int, int] = (12, 12)
    inputs: str = "one"
    outputs: str = "tensor"
    head: bool = False
    holder: str = "sequential"
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    mode: str = "eval"
    frozen: bool = False

    def __repr__(self) -> str:
        """What differs from one convolution."""
        told = [
            f"{f.name}={getattr(self, f.name)!r}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"Description({', '.join(told)})"

    def has(self, *kinds: str) -> bool:
        """Whether one of the parts is of such a kind."""
        return any(part.kind in kinds for part in self.parts)


class Pyramid(NamedTuple):
    """An output with names."""

    last: Tensor
    maps: list[Tensor]


class Network(nn.Module):
    """The network of a description."""

    def __init__(self, description: Description) -> None:
        super().__init__()
        self.inputs, self.outputs, self.holder = (
            description.inputs, description.outputs, description.holder,
        )  # fmt: skip
        self.notes: list[tuple[int, ...]] = []
        c, built = description.channels, list[nn.Module]()
        for part in description.parts:
            built.append(PARTS[part.kind](c, part))
            c = part.width
        self.names = [f"part{index}" for index in range(len(built))]
        if self.holder == "attributes":
            for name, module in zip(self.names, built, strict=True):
                setattr(self, name, module)
        elif self.holder == "dict":
            self.parts = nn.ModuleDict(zip(self.names, built, strict=True))
        else:
            kind = nn.Sequential if self.holder == "sequential" else nn.ModuleList
            self.parts = nn.Sequential(*built) if kind is nn.Sequential else nn.ModuleList(built)
        self.second = nn.Conv2d(2, description.channels, 1)
        self.head = nn.Linear(c, 5) if description.head else None

    def forward(self, x: Any, other: Tensor | None = None) -> Any:
        if self.inputs == "list":
            x, other = x
        if other is not None:
            x = x + self.second(other)
        maps = self._maps(x)
        last = maps[-1] if self.head is None else self.head(maps[-1].mean((2, 3)))
        return self._as_told(last, maps)

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps = [x]
        if self.holder == "sequential":
            maps.append(self.parts(x))
        elif self.holder == "attributes":
            for name in self.names:
                maps.append(getattr(self, name)(maps[-1]))
        else:
            modules = self.parts.values() if self.holder == "dict" else self.parts
            for module in modules:
                maps.append(module(maps[-1]))
        return maps[1:]

    def _as_told(self, last: Tensor, maps: list[Tensor]) -> Any:
        if self.outputs == "tensor":
            return last
        if self.outputs == "tuple":
            return last, maps[0]
        if self.outputs == "list":
            return [last, *maps]
        if self.outputs == "dict":
            return {"out": last, "maps": maps}
        if self.outputs == "named":
            return Pyramid(last, maps)
        if self.outputs == "more in training":
            return (last, maps[0]) if self.training else last
        return {"out": (last, [maps[0], None, 3])}

    def note(self, module: nn.Module, args: Any, output: Any) -> None:
        """A hook that is a method."""
        self.notes.append(tuple(output.shape))


SEEN: list[str] = []
"""What hooks that are functions wrote."""


def _seen(module: nn.Module, *rest: Any) -> None:
    SEEN.append(type(module).__name__)


def _doubled(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return 2 * output


def _with_keywords(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> None:
    SEEN.append(type(module).__name__)


def build(description: Description) -> Network:
    """The network, alike each time; the global random state stays as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = Network(description)
        _draw_statistics(network)
    network.to(description.dtype)
    if description.channels_last:
        to_channels_last(network)
    _hook(network, description)
    network.train(description.mode != "eval")
    for module in network.modules():
        if description.mode == "frozen norms" and hasattr(module, "running_mean"):
            module.eval()
    if description.frozen:
        for parameter in list(network.parameters())[::2]:
            if not is_lazy(parameter):
                parameter.requires_grad_(False)
    return network


def _draw_statistics(network: nn.Module) -> None:
    for module in network.modules():
        if isinstance(getattr(module, "running_mean", None), Tensor) and not isinstance(
            module, nn.modules.lazy.LazyModuleMixin
        ):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)


def _hook(network: Network, description: Description) -> None:
    holder = network if network.holder == "attributes" else network.parts
    for part, module in zip(description.parts, holder.children(), strict=False):
        target = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), module)
        if part.hook == "post":
            target.register_forward_hook(_seen)
        elif part.hook == "pre":
            target.register_forward_pre_hook(partial(_seen))
        elif part.hook == "method":
            target.register_forward_hook(network.note)
        elif part.hook == "changing":
            target.register_forward_hook(_doubled)
        elif part.hook == "keywords":
            target.register_forward_hook(_with_keywords, with_kwargs=True)
        elif part.hook == "backward":
            target.register_full_backward_hook(_seen)


def example_of(description: Description) -> tuple[Any, ...] | dict[str, Any]:
    """Real inputs: what a caller gives as ``example_inputs``."""
    generator = torch.Generator().manual_seed(3)

    def image(channels: int) -> Tensor:
        x = torch.randn(2, channels, *description.size, generator=generator).to(description.dtype)
        return x.to(memory_format=torch.channels_last) if description.channels_last else x

    x, other = image(description.channels), image(2)
    return {
        "one": (x,),
        "two": (x, other),
        "optional": (x,),
        "keyword": {"x": x, "other": other},
        "list": ([x, other],),
    }[description.inputs]


def run(network: nn.Module, inputs: tuple[Any, ...] | dict[str, Any]) -> Any:
    """The network's output."""
    return network(**inputs) if isinstance(inputs, dict) else network(*inputs)


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Eval mode without gradients; afterwards each module's own mode."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield network
    finally:
        for module, mode in modes:
            module.training = mode


def parts(kinds: tuple[str, ...] = tuple(PARTS)) -> st.SearchStrategy[Part]:
    """Any part."""
    return st.builds(
        Part,
        kind=st.sampled_from((*kinds, *STAGES * 3) if kinds == tuple(PARTS) else kinds),
        width=st.sampled_from(WIDTHS),
        norm=st.sampled_from(tuple(NORMS)),
        act=st.sampled_from(tuple(ACTS)),
        kernel=st.sampled_from((3, 1, 5)),
        stride=st.sampled_from((1, 1, 2)),
        dilation=st.sampled_from((1, 1, 2)),
        groups=st.sampled_from((1, 1, 2, 4, 8)),
        bias=st.booleans(),
        padding_mode=st.sampled_from(("zeros", "zeros", "circular", "reflect", "replicate")),
        block=st.sampled_from(tuple(BLOCKS)),
        repeat=st.sampled_from((3, 4, 5, 2)),
        hook=st.sampled_from(HOOKS),
    )


def descriptions(**fixed: Any) -> st.SearchStrategy[Description]:
    """Any network; what is named is of that strategy."""
    free = {
        "parts": st.lists(parts(), min_size=1, max_size=4).map(tuple),
        "channels": st.sampled_from((3, 1, 4)),
        "size": st.sampled_from(((12, 12), (16, 16), (9, 13), (17, 10))),
        "inputs": st.sampled_from(INPUTS),
        "outputs": st.sampled_from(OUTPUTS),
        "head": st.booleans(),
        "holder": st.sampled_from(HOLDERS),
        "dtype": st.sampled_from((torch.float32, torch.float64, torch.bfloat16)),
        "channels_last": st.booleans(),
        "mode": st.sampled_from(MODES),
        "frozen": st.booleans(),
    }
    return st.builds(Description, **{**free, **fixed})
