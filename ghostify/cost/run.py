"""One forward pass, watched op by op: on shapes alone, along the way of another, or for real."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ghostify.cost.figures import Cost, Count, LayerCount, add_costs
from ghostify.cost.limits import Limits, TooBig
from ghostify.cost.ops import CONVOLUTIONS, MACS, is_uncounted
from ghostify.cost.readings import Methods, Readings, reads_data
from ghostify.cost.shapes import RULES
from ghostify.graph.failure import describe_error, exit_refused
from ghostify.graph.input_form import describe_form
from ghostify.graph.inputs import Inputs
from ghostify.graph.meta_copy import copy_to_run, fake_copy


class Run(TorchDispatchMode):
    """One forward pass of a meta copy.

    Attributes:
        inputs: What it ran on.
        pretend_cpu: Whether its tensors say that they are on the CPU.
        error: What stopped it; None when it ran through.
        output: Nested shapes of the output.
        entered: Positional arguments of each module's first call.

    Args:
        meta: A meta copy, in eval mode.
        inputs: What to run it on.
        pretend_cpu: For forwards that make tensors of their own on the CPU.
        readings: What a run for real read of its data; where the pass needs data, it goes on with
            that. None for shapes alone.
    """

    device = torch.device("cpu")

    def __init__(
        self,
        meta: nn.Module,
        inputs: Inputs,
        pretend_cpu: bool = False,
        readings: Readings | None = None,
    ) -> None:
        super().__init__()
        self.inputs, self.pretend_cpu, self.readings = inputs, pretend_cpu, readings
        fake = FakeTensorMode(allow_non_fake_inputs=True) if pretend_cpu else None
        self.world = nullcontext() if fake is None else fake
        self.meta = meta if fake is None else fake_copy(meta, fake)
        self.names = {module: name for name, module in self.meta.named_modules()}
        self.stack: list[nn.Module] = [self.meta]
        self.macs: dict[nn.Module, int] = {}
        self.acts: dict[nn.Module, int] = {}
        self.conv_macs: dict[nn.Module, int] = {}
        self.called: dict[nn.Module, int] = {}
        self.entered: dict[nn.Module, tuple[Any, ...]] = {}
        self.shapes: dict[nn.Module, tuple[int, ...]] = {}
        self.varied: set[nn.Module] = set()
        self.uncounted: dict[str, int] = {}
        self.error: Exception | None = None
        self.refused: Exception | None = None
        self.following: Readings | None = None
        self.output: Any = None
        self._forward()

    def _forward(self) -> None:
        handles = []
        for module in self.names:
            try:
                handles.append(module.register_forward_pre_hook(self._enter))
                handles.append(module.register_forward_hook(self._leave, always_call=True))
            except RuntimeError:  # scripted modules take no hooks; their ops count for the parent
                continue
        try:
            # In inference mode ops would come whole that the table knows by their parts.
            with _same_randomness(self.device), torch.inference_mode(False), torch.no_grad():
                output = self._output()
            self.output = _shapes(output)
            # An error that the forward itself caught: it went another way than with data.
            self.error = self.refused
        except Exception as error:
            self.error = error
        finally:
            for handle in handles:
                handle.remove()

    def _output(self) -> Any:
        with self.world:
            args, kwargs = self._arguments()
            with exit_refused(), self._methods(), self:
                return self.meta(*args, **kwargs)

    def _methods(self) -> Any:
        """Patch the methods that return values without dispatching an op."""
        if self.readings is None:
            return nullcontext()
        following = self.following = self.readings.again()
        return Methods(lambda name, call: self._answer(following, name, call))

    def _answer(self, readings: Readings, op: str, call: Callable[[], Any]) -> Any:
        """Result of a call; where it needs data, the value that the real run read there."""
        reading, refused = readings.take(self.names[self.stack[-1]], op), self.refused
        try:
            return call()
        except Exception:
            if reading is None:
                raise
            self.refused = refused
            return reading("cpu" if self.pretend_cpu else "meta")

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = self.inputs.args, dict(self.inputs.kwargs)
        if not self.pretend_cpu:
            return given

        def pretend(leaf: Any) -> Any:
            return torch.empty(leaf.shape, dtype=leaf.dtype) if isinstance(leaf, Tensor) else leaf

        return pytree.tree_map(pretend, given)

    def _enter(self, module: nn.Module, args: Any) -> None:
        self.stack.append(module)
        self.called[module] = self.called.get(module, 0) + 1
        self.entered.setdefault(module, args)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.stack.pop()
        if isinstance(output, Tensor):
            shape = tuple(output.shape)
            if self.shapes.setdefault(module, shape) != shape:
                self.varied.add(module)
                self.shapes[module] = shape

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        rule = RULES.get(name) or RULES.get(f"{name}.{func._overloadname}")
        out = None
        if rule is not None and isinstance(args[0], Tensor) and args[0].is_meta:
            out = rule(*args, **(kwargs or {}))
        if out is None:
            out = self._call(func, args, kwargs or {})
        self._tally(name, args, out)
        return out

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do an op."""
        try:
            if self.following is not None and reads_data(func):
                return self._answer(self.following, str(func), lambda: func(*args, **kwargs))
            return func(*args, **kwargs)
        except Exception as error:
            self.refused = self.refused or error
            raise

    def _tally(self, name: str, args: tuple[Any, ...], out: Any) -> None:
        macs_of = MACS.get(name)
        module = self.stack[-1]
        if macs_of is not None:
            first = out[0] if isinstance(out, tuple) else out
            macs = macs_of(args, first)
            self.macs[module] = self.macs.get(module, 0) + macs
            if name in CONVOLUTIONS:
                self.acts[module] = self.acts.get(module, 0) + first.numel()
                self.conv_macs[module] = self.conv_macs.get(module, 0) + macs
        elif is_uncounted(name):
            self.uncounted[name] = self.uncounted.get(name, 0) + 1

    def again(self, meta: nn.Module) -> Run:
        """The same pass on another meta copy, one that was rewritten since."""
        return Run(meta, self.inputs, self.pretend_cpu, self.readings)

    @property
    def calls(self) -> int:
        """Calls of modules."""
        return sum(self.called.values())

    @property
    def reach(self) -> tuple[bool, int]:
        """How far the pass came, to compare it with another by."""
        return self.error is None, self.calls

    @property
    def stopped(self) -> str | None:
        """Where the pass stopped, and why, in a line."""
        return None if self.error is None else describe_error(self.error)

    def count(self) -> Count:
        """The tallies as data; the totals of what ran to its end alone."""
        layers = tuple(self._layer(module) for module in self._order())
        total = add_costs(layer.cost for layer in layers)
        return Count(
            total=total if self.error is None else Cost(total.params, None, None, None),
            layers=layers,
            inputs=str(self.inputs),
            form=describe_form(self.inputs),
            assumed=self.inputs.assumed,
            uncounted=self.uncounted,
            stopped=self.stopped,
            output=self.output,
            shapes_end=self.readings.shapes_end if self.readings else None,
            ran_on=self.readings.ran_on if self.readings else "",
        )

    def _order(self) -> list[nn.Module]:
        """Modules with a cost: those called, in order, then the others."""
        order = dict.fromkeys([*self.called, *self.names])
        return [m for m in order if m in self.macs or any(True for _ in m.parameters(False))]

    def _layer(self, module: nn.Module) -> LayerCount:
        calls = self.called.get(module, 0)
        # What a pass that stopped did not reach may have come after.
        known = self.error is None or calls > 0
        cost = Cost(
            params=self._own_params(module),
            macs=self.macs.get(module, 0) if known else None,
            acts=self.acts.get(module, 0) if known else None,
            conv_macs=self.conv_macs.get(module, 0) if known else None,
        )
        return LayerCount(
            self.names[module],
            type(module).__name__,
            cost,
            calls,
            self.shapes.get(module),
            module in self.varied,
        )

    def _own_params(self, module: nn.Module) -> int:
        """Parameters that the module is the first to hold (tied ones count once)."""
        if not hasattr(self, "_owner"):
            self._owner: dict[int, nn.Module] = {}
            for holder in self.names:
                for parameter in holder._parameters.values():
                    self._owner.setdefault(id(parameter), holder)
        own = {id(p): p for p in module._parameters.values() if p is not None}
        return sum(_numel(p) for key, p in own.items() if self._owner[key] is module)


class RealRun(Run):
    """One forward pass on data, which records what the forward reads of it.

    Args:
        model: The network; a copy of it is run, in eval mode.
        inputs: What to run it on.
        limits: How much time and memory it may take.
        shapes_end: Where shapes alone carried it no further.
    """

    def __init__(self, model: nn.Module, inputs: Inputs, limits: Limits, shapes_end: str) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        limits.check_room((t for t in tensors if t.device.type == "cpu"), "a copy of the network")
        self.device = next((t.device for t in tensors), torch.device("cpu"))
        ran_on = "the inputs that were given" if inputs.has_data else "random numbers"
        self.limits, self.recorded = limits, Readings(ran_on, shapes_end)
        super().__init__(copy_to_run(model).eval(), inputs)
        self.readings = self.recorded

    def _forward(self) -> None:
        # Fused forms of attention are one op each, and no rule says their MACs.
        fused = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            super()._forward()
        finally:
            torch.backends.mha.set_fastpath_enabled(fused)
        self.error = self.refused or self.error

    def _arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return self.inputs.filled(self.device)

    def _enter(self, module: nn.Module, args: Any) -> None:
        super()._enter(module, args)
        self.entered.clear()  # it would hold on to memory

    def _methods(self) -> Any:
        return Methods(self._note)

    def _note(self, op: str, call: Callable[[], Any]) -> Any:
        value = call()
        self.recorded.note(self.names[self.stack[-1]], op, value)
        return value

    def _call(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            self.limits.check_time()
            if func._schema.name in MACS:
                self.limits.check_room(_outputs(func, args, kwargs), f"the output of {func}")
        except TooBig as error:
            self.refused = error
            raise
        if reads_data(func):
            return self._note(str(func), lambda: func(*args, **kwargs))
        return func(*args, **kwargs)


def _outputs(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The outputs of an op, without data; none where its shapes can't be told without it."""

    def meta(leaf: Any) -> Any:
        return leaf.to("meta") if isinstance(leaf, Tensor) else leaf

    try:
        out = func(*pytree.tree_map(meta, args), **pytree.tree_map(meta, kwargs))
    except Exception:  # no kernel for the meta device
        return []
    return [leaf for leaf in pytree.tree_leaves(out) if isinstance(leaf, Tensor)]


@contextmanager
def _same_randomness(device: torch.device) -> Iterator[None]:
    """Random numbers from a fixed seed inside, and from where they were after."""
    states = random.getstate(), np.random.get_state()
    cuda = [device] if device.type == "cuda" else []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=cuda))
        stack.callback(random.setstate, states[0])
        stack.callback(np.random.set_state, states[1])
        random.seed(0)
        np.random.seed(0)
        torch.default_generator.manual_seed(0)
        for each in cuda:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(0)
        yield


def _numel(parameter: Tensor) -> int:
    try:
        return parameter.numel()
    except ValueError:  # a lazy module's parameter has no shape before its first forward pass
        return 0


def _shapes(output: Any) -> Any:
    """The nested shapes of an output."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, dict):
        return {key: _shapes(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_shapes(value) for value in output]
    return type(output).__name__
