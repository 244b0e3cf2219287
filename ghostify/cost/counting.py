"""Counting params, MACs and activations of any network, per layer, without computing anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from ghostify.cost.figures import Cost, Count, LayerCount, add_costs
from ghostify.cost.ops import CONVOLUTIONS, MACS, is_uncounted
from ghostify.cost.shapes import RULES
from ghostify.errors import ModelError
from ghostify.graph.failure import describe_error
from ghostify.graph.inputs import ExampleInputs, Inputs, candidate_inputs
from ghostify.graph.shadow import fake_shadow, shadow
from ghostify.random_state import keep_random_state

_NEEDS_DATA = (NotImplementedError, DynamicOutputShapeException, DataDependentOutputException)


@keep_random_state()
def count(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> Count:
    """Count a network's parameters, MACs and activations, in eval mode.

    The network runs on the meta device: no data, no activation memory, and ``model`` itself is
    neither run nor changed.

    Args:
        model: Any module.
        example_inputs: What its ``forward`` takes (shapes and dtypes matter, values don't).
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.

    Raises:
        ModelError: The network can't take the inputs that were given.

    Example:
        >>> count(nn.Conv2d(3, 8, 3, padding=1), input_size=(3, 32, 32)).total.macs
        221184
    """
    hollow = shadow(model).eval()
    return run_first(hollow, candidate_inputs(model, example_inputs, input_size)).count()


def run_first(hollow: nn.Module, candidates: Iterable[Inputs]) -> Run:
    """Run a shadow on the first inputs that it can take, else on those that bring it farthest.

    Raises:
        ModelError: The only candidate is the caller's own, and the network computes nothing on it.
    """
    farthest: Run | None = None
    for inputs in candidates:
        run = _run(hollow, inputs)
        if run.error is None:
            return run
        if not inputs.assumed and not needs_data(run.error):
            raise ModelError(
                f"The network can't take an input of {inputs}: {run.stopped}. "
                "Give example_inputs (or an input size) that its forward takes."
            )
        if farthest is None or run.calls > farthest.calls:
            farthest = run
        if run.macs and needs_data(run.error):
            break  # another size would stop there too
    assert farthest is not None, "there is always a candidate"
    return farthest


def _run(hollow: nn.Module, inputs: Inputs) -> Run:
    """On the meta device; pretending to be on the CPU where the forward makes tensors there."""
    run = Run(hollow, inputs)
    if run.error is not None and "device" in str(run.error):
        pretended = Run(hollow, inputs, pretend_cpu=True)
        if pretended.error is None or pretended.calls > run.calls:
            return pretended
    return run


def needs_data(error: Exception) -> bool:
    """Whether a pass stopped because it has no data, and not because it can't take the input."""
    if isinstance(
        error, NotImplementedError | DynamicOutputShapeException | DataDependentOutputException
    ):
        return True
    return "meta" in str(error)


class Run(TorchDispatchMode):
    """One forward pass of a shadow, watched op by op.

    Attributes:
        inputs: What it ran on.
        error: What stopped it; None when it ran through.
        output: Nested shapes of the output.
        entered: Positional arguments of each module's first call.
    """

    def __init__(self, hollow: nn.Module, inputs: Inputs, pretend_cpu: bool = False) -> None:
        super().__init__()
        self.inputs, self.pretend_cpu = inputs, pretend_cpu
        fake = FakeTensorMode(allow_non_fake_inputs=True) if pretend_cpu else None
        self.world = nullcontext() if fake is None else fake
        self.hollow = hollow if fake is None else fake_shadow(hollow, fake)
        self.names = {module: name for name, module in self.hollow.named_modules()}
        self.stack: list[nn.Module] = [self.hollow]
        self.macs: dict[nn.Module, int] = {}
        self.acts: dict[nn.Module, int] = {}
        self.conv_macs: dict[nn.Module, int] = {}
        self.called: dict[nn.Module, int] = {}
        self.entered: dict[nn.Module, tuple[Any, ...]] = {}
        self.shapes: dict[nn.Module, tuple[int, ...]] = {}
        self.uncounted: dict[str, int] = {}
        self.error: Exception | None = None
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
            with torch.no_grad(), self.world:
                args, kwargs = self._arguments()
                with self:
                    output = self.hollow(*args, **kwargs)
            self.output = _shapes(output)
        except Exception as error:
            self.error = error
        finally:
            for handle in handles:
                handle.remove()

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
            self.shapes[module] = tuple(output.shape)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        name = func._schema.name
        rule = RULES.get(name) or RULES.get(f"{name}.{func._overloadname}")
        out = None
        if rule is not None and isinstance(args[0], Tensor) and args[0].is_meta:
            out = rule(*args, **(kwargs or {}))
        if out is None:
            out = func(*args, **(kwargs or {}))
        self._tally(name, args, out)
        return out

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

    def again(self, hollow: nn.Module) -> Run:
        """The same pass on another shadow, one that was rewritten since."""
        return Run(hollow, self.inputs, self.pretend_cpu)

    @property
    def calls(self) -> int:
        """How far the pass came."""
        return sum(self.called.values())

    @property
    def stopped(self) -> str | None:
        """Where the pass stopped, and why, in a line."""
        return None if self.error is None else describe_error(self.error)

    def count(self) -> Count:
        """The tallies as data; params alone where nothing could be run."""
        ran = self.error is None or bool(self.macs)
        layers = tuple(self._layer(module, ran) for module in self._order())
        total = add_costs(c.cost for c in layers)
        return Count(
            total=total if ran else Cost(total.params, None, None, None),
            layers=layers,
            inputs=str(self.inputs),
            assumed=self.inputs.assumed,
            uncounted=self.uncounted,
            stopped=self.stopped,
            output=self.output,
        )

    def _order(self) -> list[nn.Module]:
        """Modules with a cost: those called, in order, then the others."""
        order = dict.fromkeys([*self.called, *self.names])
        return [m for m in order if m in self.macs or any(True for _ in m.parameters(False))]

    def _layer(self, module: nn.Module, ran: bool) -> LayerCount:
        cost = Cost(
            params=self._own_params(module),
            macs=self.macs.get(module, 0) if ran else None,
            acts=self.acts.get(module, 0) if ran else None,
            conv_macs=self.conv_macs.get(module, 0) if ran else None,
        )
        calls = self.called.get(module, 0)
        return LayerCount(
            self.names[module], type(module).__name__, cost, calls, self.shapes.get(module)
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
