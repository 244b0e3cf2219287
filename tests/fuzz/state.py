"""What a conversion must leave as it was: a network, all it holds, and the global random state."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils import _pytree as pytree

from tests.fuzz.networks import SEEN

NOTES = "what hooks that are functions wrote"


def look_at(network: nn.Module) -> dict[str, Any]:
    """Everything of a network that a caller may hold on to, by name."""
    return {NOTES: len(SEEN), **dict(_facts(network))}


def _facts(network: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in network.named_modules(remove_duplicate=False):
        yield f"{name}: module", (id(module), type(module), module.training)
        yield f"{name}: attributes", sorted(module.__dict__)
        yield f"{name}: notes", len(getattr(module, "notes", ()))
        for key, value in module.__dict__.items():
            if "hooks" in key:
                hooks = value.items() if isinstance(value, dict) else enumerate(value)
                yield f"{name}: {key}", tuple((k, id(hook)) for k, hook in hooks)
        for key, tensor in (*module._parameters.items(), *module._buffers.items()):
            yield f"{name}: {key}", _tensor(tensor)


def _tensor(tensor: Tensor | None) -> Any:
    if tensor is None or is_lazy(tensor):
        return (id(tensor), type(tensor))
    grad = None if tensor.grad is None else _bits(tensor.grad)
    return (id(tensor), tensor.requires_grad, tensor.stride(), tensor.dtype, _bits(tensor), grad)


def _bits(tensor: Tensor) -> bytes:
    plain = tensor.detach().contiguous().cpu()
    return bytes(plain.reshape(-1).view(torch.uint8).numpy().tobytes()) if plain.numel() else b""


def random_state() -> tuple[Any, ...]:
    """The states of the global generators."""
    name, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), (name, keys.tolist(), *rest), random.getstate()


def same_bits(one: Any, other: Any) -> bool:
    """Whether two outputs or states are equal, bit for bit, structure included."""
    leaves, spec = pytree.tree_flatten(one)
    others, other_spec = pytree.tree_flatten(other)
    return spec == other_spec and all(map(_same_leaf, leaves, others))


def _same_leaf(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return bool(one == other)
    if is_lazy(one) or is_lazy(other):
        return type(one) is type(other)
    alike = one.shape == other.shape and one.dtype == other.dtype
    return alike and _bits(one) == _bits(other)


def form_of(output: Any) -> Any:
    """Structure, shapes and types of an output."""
    leaves, spec = pytree.tree_flatten(output)
    told = [(tuple(x.shape), x.dtype) if isinstance(x, Tensor) else x for x in leaves]
    return str(spec), told
