"""Recording: a graph of what a network does with one input, where no symbol stands for any.

torch.fx traces with symbols: where a forward asks one for a truth value or a number (`if h % 7`,
`range(x.size(1))`), tracing stops. A recorder has for each symbol its value on the meta device, and
answers from that. The graph says what the network computes for inputs of these sizes; modules in it
are the network's own, so it is good for looking, and never run instead of the network's code.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from ghostify.graph.execution import Env, Executor, to_meta
from ghostify.graph.failure import describe_error, exit_refused
from ghostify.graph.trace import BlockTracer, LayerTracer, defaults_of

_KNOWN = frozenset({"device", "dtype", "layout", "ndim", "is_cuda", "requires_grad", "is_meta"})
"""Attributes of a tensor that are given as they are: no number that a width depends on."""


class NotRecorded(Exception):
    """Why a module can't be recorded; a reason, never an error."""


@dataclass(frozen=True)
class Recording:
    """What a module does with one input.

    Attributes:
        graph: Its graph.
        values: The value of each node, on the meta device.
    """

    graph: fx.Graph
    values: Env


def record_network(
    module: nn.Module, args: Sequence[Any], given: frozenset[str] = frozenset()
) -> Recording:
    """Record a network, or a part of one.

    Args:
        module: The module on the meta device, in eval mode; it is not changed.
        args: What its forward takes.
        given: Names of its optional arguments that are among them.

    Raises:
        NotRecorded: It asks for data, or for what a symbol can't stand for.
    """
    return _record(_LayerRecorder(args), module, given)


def record_block(block: nn.Module, x: Tensor) -> Recording:
    """Record a block with the input ``x``; modules without tensors and parts stay whole.

    Raises:
        NotRecorded: It asks for data, or for what a symbol can't stand for.
    """
    return _record(_BlockRecorder((x,)), block, frozenset())


def _record(recorder: _Recorder, module: nn.Module, given: frozenset[str]) -> Recording:
    try:
        # A copy: what a forward keeps (a cache, a counter) must not hold symbols afterwards.
        own = copy.deepcopy(module)
        with exit_refused(), torch.no_grad():
            graph = recorder.trace(own, concrete_args=defaults_of(own, given))
    except Exception as error:
        raise NotRecorded(describe_error(error)) from error
    return Recording(graph, recorder.values)


class _Answers:
    """The answers of a symbol to what asks for its value."""

    tracer: Any
    node: fx.Node

    @property
    def _value(self) -> Any:
        return self.tracer.values[self.node]

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Iterator[Any]:
        return iter([self[i] for i in range(len(self._value))])  # type: ignore[index]

    def __index__(self) -> int:
        return int(self._value.__index__())

    def __int__(self) -> int:
        return int(self._value)

    def __float__(self) -> float:
        return float(self._value)

    def __getattr__(self, name: str) -> Any:
        value = self._value
        if name in _KNOWN and isinstance(value, Tensor):
            return getattr(value, name)
        if not hasattr(value, name):
            raise AttributeError(name)
        return _Attribute(self, name)  # type: ignore[arg-type]


class _Symbol(_Answers, fx.Proxy):
    """A symbol with a value."""


class _Attribute(_Answers, fx.proxy.Attribute):
    """An attribute of such a symbol; a node of its own where it is no method that is called."""


class _Recorder(fx.Tracer):
    """A tracer that works out each node's value on the meta device as it goes.

    Args:
        given: What the forward takes.
    """

    def __init__(self, given: Sequence[Any]) -> None:
        super().__init__()
        self._given = [to_meta(arg) for arg in given]
        self._executor: Executor | None = None
        self._is_working = False

    @property
    def values(self) -> Env:
        """The values so far."""
        return {} if self._executor is None else self._executor.env

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A symbol for a node."""
        return _Symbol(node, self)

    def create_node(self, kind: str, *rest: Any, **more: Any) -> fx.Node:
        """A new node, whose value is worked out."""
        node = super().create_node(kind, *rest, **more)
        if self._executor is None:
            self._executor = Executor(self.graph, self.root, *self._given)
        if kind != "output":
            with self._working():
                value = self._executor.run_node(node)
                # A constant of the code may lie elsewhere.
                self.values[node] = to_meta(value) if kind == "get_attr" else value
        return node

    @contextmanager
    def _working(self) -> Iterator[None]:
        """Values are worked out: modules that are called and looked at are no part of a trace."""
        self._is_working = True
        try:
            yield
        finally:
            self._is_working = False

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        """A module's call: a node or, while values are worked out, the call itself."""
        if self._is_working:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        """An attribute of a module: a node or, while values are worked out, itself."""
        if self._is_working:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: Any) -> bool:
        """The truth of a symbol's value."""
        return bool(self.values[obj.node])

    def iter(self, obj: Any) -> Iterator[Any]:
        """The items of a symbol."""
        return iter([obj[i] for i in range(len(self.values[obj.node]))])

    def keys(self, obj: Any) -> Any:
        """The keys of a symbol for a dictionary."""
        return self.values[obj.node].keys()


class _LayerRecorder(_Recorder, LayerTracer):
    """A recorder with the leaves of `LayerTracer`."""


class _BlockRecorder(_Recorder, BlockTracer):
    """A recorder with the leaves of `BlockTracer`."""
