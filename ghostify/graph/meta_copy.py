"""Copies of a network to run in its place.

A meta copy's tensors have shapes but no data: it runs in no time and no memory. A twin's have data.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import UninitializedBuffer, is_lazy

from ghostify.errors import ModelError
from ghostify.graph.failure import describe_error

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Most of a module's attributes, told apart faster by type than by `isinstance` of Tensor.
_HOLD_NOTHING = frozenset({bool, int, float, str, type(None)})


def meta_copy(model: ModuleT) -> ModuleT:
    """A deep copy of ``model`` with every tensor on the meta device; ``model`` is not changed.

    Forward hooks that are plain functions are left out: a copy of a function writes to the same
    lists as the function, and the caller's must not fill with tensors that have no data.

    Raises:
        ModelError: The model can't be copied, or is none.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"A {type(model).__name__} is no torch.nn.Module: give the network itself "
            "(of an exported program, the one that was exported)."
        )
    meta = _copy(model, lambda tensor: torch.empty_like(tensor, device="meta", requires_grad=False))
    _leave_hooks_out(meta)
    return meta


def copy_to_run(model: ModuleT) -> ModuleT:
    """A deep copy of ``model`` with all its data, to be run; nothing of ``model`` changes by that.

    The caller's forward hooks are left out as in a `meta_copy`.

    Raises:
        ModelError: The model can't be copied.
    """
    made = _copy(model, lambda tensor: tensor.detach().clone())
    _leave_hooks_out(made)
    return made


def _leave_hooks_out(copied: nn.Module) -> None:
    for module in copied.modules():
        for name in ("_forward_pre_hooks", "_forward_hooks"):
            hooks = module.__dict__.get(name, {})
            for key in [key for key, hook in hooks.items() if _is_plain_function(hook)]:
                del hooks[key]


def _is_plain_function(hook: Any) -> bool:
    """Whether a hook is a function, and neither PyTorch's nor a method (of the copy, by now)."""
    while isinstance(hook, partial):
        hook = hook.func
    return isinstance(hook, FunctionType) and not hook.__module__.startswith("torch.")


def memo_for_copy(model: nn.Module) -> dict[int, Any]:
    """A memo with which `copy.deepcopy` copies a network faster, and whatever its tensors are.

    Tensors that were computed from parameters (old weight_norm, pruning), which deepcopy refuses,
    are detached: a hook computes them again.
    """
    memo = _fresh_tables(model)
    for tensor in _tensors_of(model):
        if isinstance(tensor, UninitializedBuffer):
            memo[id(tensor)] = _unshaped(tensor, tensor.device)
        elif tensor.grad_fn is not None and id(tensor) not in memo:
            memo[id(tensor)] = tensor.detach().clone()
    return memo


def copy_network(model: ModuleT) -> ModuleT:
    """A deep copy with data, of networks too that `copy.deepcopy` alone refuses."""
    return copy.deepcopy(model, memo_for_copy(model))


def _unshaped(tensor: Tensor, device: torch.device) -> Tensor:
    """A lazy parameter or buffer like the tensor."""
    lazy = cast(Any, type(tensor))
    if isinstance(tensor, UninitializedBuffer):  # it lacks the parameter's own deepcopy
        options = {"persistent": getattr(tensor, "persistent", True)}
    else:
        options = {}
    unshaped: Tensor = lazy(tensor.requires_grad, device, tensor.dtype, **options)
    return unshaped


def _fresh_tables(model: nn.Module) -> dict[int, Any]:
    """A memo in which empty hook tables, of which each module has a dozen, are made anew.

    Copied one by one, they take more time than all the rest.
    """
    return {
        id(value): OrderedDict()
        for module in model.modules()
        for value in module.__dict__.values()
        if type(value) is OrderedDict and not value
    }


def fake_copy(meta: ModuleT, mode: FakeTensorMode) -> ModuleT:
    """A copy of a meta copy whose tensors pretend to be on the CPU.

    Slower than the meta device; for networks whose forward makes tensors of its own there.
    """
    with mode:
        return _copy(meta, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype))


def _copy(model: ModuleT, meta: Callable[[Tensor], Tensor]) -> ModuleT:
    memo = _fresh_tables(model)
    for tensor in _tensors_of(model):
        if is_lazy(tensor):
            memo[id(tensor)] = _unshaped(tensor, torch.device("meta"))
        else:
            memo[id(tensor)] = _like(tensor, meta)
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"The network can't be copied ({describe_error(error)}), and ghostify works on a copy: "
            "make copy.deepcopy(model) work."
        ) from error


def _like(tensor: Tensor, meta: Callable[[Tensor], Tensor]) -> Tensor:
    """The tensor as ``meta`` makes it, a parameter staying one."""
    try:
        empty = meta(tensor)
    except (RuntimeError, NotImplementedError):  # quantised or otherwise exotic: keep it as it is
        return tensor
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(empty, requires_grad=tensor.requires_grad)
    return empty


def _tensors_of(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers and the tensors that modules keep as plain attributes."""
    for module in model.modules():
        for value in module.__dict__.values():
            if type(value) in _HOLD_NOTHING or (type(value) is OrderedDict and not value):
                continue
            if isinstance(value, Tensor):
                yield value
            elif isinstance(value, list | tuple):
                yield from (item for item in value if isinstance(item, Tensor))
            elif isinstance(value, dict):
                yield from (item for item in value.values() if isinstance(item, Tensor))
