"""The parts of a network that does not trace as a whole, in the order of their calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ghostify.data.spool import Span, Spool
from ghostify.graph.calls import Arguments, call, names_of
from ghostify.graph.segments import Segment, split
from ghostify.graph.trace import LAYERS, trace
from ghostify.numerics.nested import map_tensors, tensors_in

MOST_KEPT = 4 * 2**30
"""Bytes of what the parts of one network give that are kept on disk; the rest is computed anew."""


@dataclass(frozen=True)
class NetworkPart:
    """A module of both networks.

    Attributes:
        name: Of it; empty for the whole network.
        teacher: In the original.
        student: In the converted network.
    """

    name: str
    teacher: nn.Module
    student: nn.Module

    def name_of(self, inside: str) -> str:
        """Name in the whole network of a module inside."""
        return ".".join(filter(None, (self.name, inside)))

    def split(self, wanted: Callable[[str], bool], inputs: Spool) -> list[Segment]:
        """The chain of its segments; none where it has no graph.

        Args:
            wanted: Whether a module (by its name in the whole network) is one that they are for.
            inputs: What it gets.
        """
        if isinstance(self.teacher, LAYERS) or not len(inputs):
            return []
        names = names_of(self.teacher, inputs.take([0]))
        found = split(
            self.teacher, lambda name: wanted(self.name_of(name)), names, inputs.examples()
        )
        return [] if found[0].entry is None else found


@torch.no_grad()
def parts_in_order(network: nn.Module, images: Spool) -> dict[str, int]:
    """The largest modules that trace, and the layers outside them, as they are called.

    Args:
        network: In eval mode.
        images: What it gets; it is run on one sample.

    Returns:
        How often each is called, by name, in the order of the first calls.
    """
    regions = [region.name for region in trace(network).regions]
    inside = {f"{name}." if name else "" for name in regions}
    single = [
        name
        for name, module in network.named_modules()
        if isinstance(module, LAYERS) and not any(name.startswith(start) for start in inside)
    ]
    called: Counter[nn.Module] = Counter()
    names: dict[nn.Module, str] = {}

    def note(name: str, module: nn.Module, args: Any) -> None:
        called[module] += 1
        names.setdefault(module, name)

    with ExitStack() as stack:
        for name in (*regions, *single):
            hook = partial(note, name)
            stack.callback(network.get_submodule(name).register_forward_pre_hook(hook).remove)
        call(network, images.take([0]))
    return {name: called[module] for module, name in names.items()}


class _AllCallsSeen(BaseException):
    """Ends a forward pass; no network's own ``except Exception`` takes it for a fault."""


@torch.no_grad()
def inputs_of(name: str, network: nn.Module, batches: Iterable[Any], calls: int) -> Spool:
    """What a module of a network gets, in all its calls.

    Args:
        name: Of the module.
        network: In eval mode; each of its passes ends at the module's last call.
        batches: What the network gets.
        calls: Of the module in a pass.
    """
    inputs, seen = Spool(), 0

    def take(_: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        nonlocal seen
        is_one = len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        inputs.append(args[0] if is_one else Arguments(args, dict(kwargs)))
        seen += 1
        if seen == calls:
            raise _AllCallsSeen

    handle = network.get_submodule(name).register_forward_pre_hook(take, with_kwargs=True)
    try:
        for x in batches:
            seen = 0
            with suppress(_AllCallsSeen):
                call(network, x)
    finally:
        handle.remove()
    return inputs


class PartsInTurn:
    """A network that is run up to one of its parts after the other.

    What the parts before give is kept and given again: they must not change any more. So all runs
    together cost about as much as one, and not one for each part.

    Args:
        network: In eval mode.
        images: What it gets.
        spans: The samples of each batch.
    """

    def __init__(self, network: nn.Module, images: Spool, spans: Sequence[Span]) -> None:
        self.network, self.images, self.spans = network, images, spans
        self._settled: list[str] = []
        self._kept, self._places = Spool(), dict[tuple[Any, ...], tuple[Span, torch.device]]()
        self._room, self._batch = MOST_KEPT, 0
        self._called: Counter[str] = Counter()

    def inputs_of(self, name: str, calls: int) -> Spool:
        """What the next part gets; see `inputs_of`."""
        with ExitStack() as stack:
            for done in self._settled:
                stack.enter_context(self._again(done))
            inputs = inputs_of(name, self.network, self._batches(), calls)
        self.pass_by(name)
        return inputs

    def pass_by(self, name: str) -> None:
        """Keep what a part gives from now on."""
        self._settled.append(name)

    def _batches(self) -> Iterator[Any]:
        for index, span in enumerate(self.spans):
            self._batch = index
            self._called.clear()
            yield self.images.slice(span)

    @contextmanager
    def _again(self, name: str) -> Iterator[None]:
        """Let a part give what it gave, where that is kept."""
        module = self.network.get_submodule(name)
        before, run = module.__dict__.get("forward"), module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            call_of_part = name, self._batch, self._called[name]
            self._called[name] += 1
            if call_of_part in self._places:
                span, device = self._places[call_of_part]
                return map_tensors(lambda tensor: tensor.to(device), self._kept.slice(span))
            made = run(*args, **kwargs)
            self._keep(call_of_part, made)
            return made

        module.__dict__["forward"] = forward
        try:
            yield
        finally:
            del module.__dict__["forward"]
            if before is not None:
                module.__dict__["forward"] = before

    def _keep(self, call_of_part: tuple[Any, ...], made: Any) -> None:
        tensors = tensors_in(made)
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if not tensors or size > self._room or any(t.layout != torch.strided for t in tensors):
            return
        start = len(self._kept)
        self._kept.append(made, 1, whole=True)
        self._room -= size
        self._places[call_of_part] = (start, start + 1), tensors[0].device


def are_alike(one: Spool, other: Spool) -> bool:
    """Whether two spools hold samples of the same calls."""
    return len(one) == len(other) and bool(len(one)) and one.spans(1) == other.spans(1)
