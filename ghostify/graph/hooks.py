"""Forward hooks of a copied network: they work there, and leave what the caller's hold alone."""

from __future__ import annotations

import copy
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping
from contextlib import nullcontext, redirect_stdout, suppress
from functools import partial
from io import StringIO
from types import CellType, FunctionType
from typing import Any

from torch import nn
from torch.utils._python_dispatch import _disable_current_modes

TABLES = ("_forward_pre_hooks", "_forward_hooks")

CONTAINERS = (list, dict, set, deque, OrderedDict, defaultdict)
"""What a function may keep things in, by a name of its module."""


def keep_hooks_apart(copied: nn.Module, memo: dict[int, Any], forgiving: bool = False) -> None:
    """Give a copied network hooks of its own, in place.

    A copy of a network has the very functions of the original as its hooks (methods, and what
    PyTorch put there, are bound to the copy already). Here each gets a twin with copies of the
    lists, dicts and objects that it holds: it may be what the forward needs, and what the caller
    collects must not fill with tensors that nobody asked for.

    Args:
        copied: The copy.
        memo: That of `copy.deepcopy`, when it was made.
        forgiving: Whether a hook that fails counts as one that does nothing: on shapes alone, one
            that looks at values fails.
    """
    for module in copied.modules():
        for table in TABLES:
            hooks = module.__dict__.get(table, {})
            for key, hook in hooks.items():
                if _is_plain_function(hook):
                    hooks[key] = _Apart(_twin(hook, memo), forgiving)


class _Apart:
    """A hook that prints nothing and, where that is forgiven, may fail.

    What counts the ops of a pass does not see its own: they are the caller's, not the network's.
    """

    def __init__(self, hook: Any, forgiving: bool) -> None:
        self.hook, self.forgiving = hook, forgiving

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        errors = suppress(Exception) if self.forgiving else nullcontext()
        with errors, redirect_stdout(StringIO()), _disable_current_modes():
            return self.hook(*args, **kwargs)
        return None


def _is_plain_function(hook: Any) -> bool:
    """Whether a hook is a function, and neither PyTorch's nor a method (of the copy, by now)."""
    while isinstance(hook, partial):
        hook = hook.func
    return isinstance(hook, FunctionType) and not hook.__module__.startswith("torch.")


def _twin(hook: Any, memo: dict[int, Any]) -> Any:
    """A function like the hook, with copies of what it holds."""
    if isinstance(hook, partial):
        args, keywords = _own(hook.args, memo), _own(hook.keywords, memo)
        return partial(_twin(hook.func, memo), *args, **keywords)
    cells = tuple(_cell(cell, memo) for cell in hook.__closure__ or ())
    held = _held(hook.__code__.co_names, hook.__globals__, memo)
    twin = FunctionType(
        hook.__code__,
        {**hook.__globals__, **held} if held else hook.__globals__,
        hook.__name__,
        _own(hook.__defaults__, memo),
        cells or None,
    )
    twin.__kwdefaults__ = _own(hook.__kwdefaults__, memo)
    return twin


def _held(names: Any, known: Mapping[str, Any], memo: dict[int, Any]) -> dict[str, Any]:
    """Copies of what a function keeps things in by names of its module."""
    found = {name: known[name] for name in names if type(known.get(name)) in CONTAINERS}
    return {name: _own(value, memo) for name, value in found.items()}


def _cell(cell: CellType, memo: dict[int, Any]) -> CellType:
    try:
        return CellType(_own(cell.cell_contents, memo))
    except ValueError:  # empty: nothing was put in yet
        return CellType()


def _own(value: Any, memo: dict[int, Any]) -> Any:
    """A copy; of modules that in the copied network, and of what can't be copied the thing."""
    if isinstance(value, nn.Module):
        return memo.get(id(value), value)
    if isinstance(value, FunctionType) and value.__closure__:
        return _twin(value, memo)
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value
