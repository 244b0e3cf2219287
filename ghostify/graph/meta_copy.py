"""Copies of a network to run in its place.

A meta copy's tensors have shapes but no data: it runs in no time and no memory. A twin's have data.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.parameter import UninitializedBuffer, is_lazy
from torch.overrides import TorchFunctionMode

from ghostify.errors import ModelError
from ghostify.graph.failure import describe_error
from ghostify.graph.hooks import keep_hooks_apart
from ghostify.numerics.nested import tensors_in

ModuleT = TypeVar("ModuleT", bound=nn.Module)

# Most of a module's attributes, told apart faster by type than by `isinstance` of Tensor.
_HOLD_NOTHING = frozenset({bool, int, float, str, type(None)})


def meta_copy(model: ModuleT) -> ModuleT:
    """A deep copy of ``model`` with every tensor on the meta device; ``model`` is not changed.

    Forward hooks that are plain functions write to copies of the lists that they hold: the caller's
    must not fill with tensors that have no data.

    Raises:
        ModelError: The model can't be copied, or is none.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"A {type(model).__name__} is no torch.nn.Module: give the network itself "
            "(of an exported program, the one that was exported)."
        )
    memo: dict[int, Any] = {}
    meta = _copy(
        model, lambda tensor: torch.empty_like(tensor, device="meta", requires_grad=False), memo
    )
    keep_hooks_apart(meta, memo, forgiving=True)
    return meta


def copy_to_run(model: ModuleT) -> ModuleT:
    """A deep copy of ``model`` with all its data, to be run; nothing of ``model`` changes by that.

    The caller's forward hooks write to copies as in a `meta_copy`.

    Raises:
        ModelError: The model can't be copied.
    """
    memo: dict[int, Any] = {}
    made = _copy(model, lambda tensor: tensor.detach().clone(), memo)
    keep_hooks_apart(made, memo)
    return made


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
    made: ModuleT = deepcopy_any(model, memo_for_copy(model))
    return made


def deepcopy_any(value: Any, memo: dict[int, Any]) -> Any:
    """`copy.deepcopy`, of tensors too that were computed, wherever a module keeps them.

    Those are detached. The memo is filled as by `copy.deepcopy`.
    """
    before = dict(memo)
    try:
        return copy.deepcopy(value, memo)
    except RuntimeError:  # what watches for such tensors takes longer than the copy of the others
        memo.clear()
        memo.update(before)
        with _Detaching():
            return copy.deepcopy(value, memo)


class _Detaching(TorchFunctionMode):
    """Inside, copies of computed tensors are detached."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is Tensor.__deepcopy__ and args[0].grad_fn is not None:
            tensor, memo = args
            made: Tensor = memo.setdefault(id(tensor), tensor.detach().clone())
            return made
        return func(*args, **(kwargs or {}))


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
        return _copy(meta, lambda tensor: torch.empty(tensor.shape, dtype=tensor.dtype), {})


def _copy(model: ModuleT, meta: Callable[[Tensor], Tensor], memo: dict[int, Any]) -> ModuleT:
    """A deep copy, its tensors as ``meta`` makes them; fills the memo as `copy.deepcopy` does."""
    memo.update(_fresh_tables(model))
    for tensor in _tensors_of(model):
        if is_lazy(tensor):
            memo[id(tensor)] = _unshaped(tensor, torch.device("meta"))
        else:
            memo[id(tensor)] = _like(tensor, meta)
    try:
        made: ModuleT = deepcopy_any(model, memo)
        return made
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
                yield from _tensors_among(value)
            elif isinstance(value, dict):
                yield from _tensors_among(value.values())


def _tensors_among(values: Iterable[Any]) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple | dict):
            yield from tensors_in(value)
