"""What is run, measured and exported: a network in eval mode, and inputs that it takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from ghostify.cost.counting import look
from ghostify.errors import ModelError, SettingsError
from ghostify.graph.inputs import ExampleInputs, candidate_inputs
from ghostify.graph.meta_copy import meta_copy

Session = Callable[[Sequence[Tensor]], list[Tensor]]
"""Something that runs: from a network's input tensors to its output tensors."""


@dataclass(frozen=True)
class Program:
    """A network, and the positional arguments that it is run on.

    Attributes:
        network: In eval mode.
        args: What it takes; real tensors.
        any_batch: Whether its form for a runtime is to take any number of images.
        facts: What a file of it says about it.
        with_concats: The network in the form that concatenates where this one keeps maps apart;
            None where there is no other, or a runtime is not asked to try it.
    """

    network: nn.Module
    args: tuple[Any, ...]
    any_batch: bool = False
    facts: Mapping[str, str] = field(default_factory=dict)
    with_concats: nn.Module | None = None

    @property
    def forms(self) -> dict[str, Program]:
        """The forms that may be fastest, by name."""
        if self.with_concats is None:
            return {"": self}
        concatenated = replace(self, network=self.with_concats, with_concats=None)
        return {"": replace(self, with_concats=None), "concats": concatenated}

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors among the arguments, as a runtime takes them."""
        return tensors_of(self.args)

    def run(self) -> list[Tensor]:
        """The network's output tensors."""
        with torch.no_grad():
            return tensors_of(self.network(*self.args))


def tensors_of(value: Any) -> list[Tensor]:
    """The tensors of nested values, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def example_arguments(
    network: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> tuple[Any, ...]:
    """Positional arguments that a network takes, with data; see `candidate_inputs`.

    Raises:
        ModelError: The network can't be run on them, or takes keywords alone.
    """
    run = look(
        network, meta_copy(network).eval(), candidate_inputs(network, example_inputs, input_size)
    ).farthest
    if not run.calls:
        raise ModelError(f"The network can't be run: {run.stopped}. Give example_inputs.")
    device = next((p.device for p in network.parameters()), torch.device("cpu"))
    args, kwargs = run.inputs.filled(device)
    if kwargs:
        raise ModelError(
            "The network's inputs are keywords, which no runtime takes: "
            "wrap it in a module whose forward takes them by position."
        )
    return args


def with_batch(args: tuple[Any, ...], batch: int) -> tuple[Any, ...]:
    """The same arguments for another number of images: the first is repeated, slightly changed.

    Raises:
        SettingsError: There is no such batch, or it does not fit into memory.
    """
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise SettingsError(f"batch={batch!r} makes no sense: give a whole number of 1 or more.")

    def repeat(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.dim() == 0 or leaf.size(0) == batch:
            return leaf
        repeated = leaf[:1].repeat(batch, *[1] * (leaf.dim() - 1))
        if leaf.dtype.is_floating_point:
            factors = torch.linspace(1, 0.5, batch, dtype=leaf.dtype, device=leaf.device)
            repeated = repeated * factors.view(-1, *[1] * (leaf.dim() - 1))
        return repeated

    try:
        repeated: tuple[Any, ...] = pytree.tree_map(repeat, args)
    except (RuntimeError, MemoryError, OverflowError, TypeError) as error:
        raise SettingsError(f"batch={batch} does not fit into memory: give fewer.") from error
    return repeated
