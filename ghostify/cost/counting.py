"""Counting params, MACs and activations of any network, per layer.

On shapes alone, without computing anything; where the forward reads its data, in one run for real.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, islice

from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)

from ghostify.cost.figures import Count
from ghostify.cost.limits import Limits, TooBig
from ghostify.cost.readings import Readings
from ghostify.cost.run import RealRun, Run
from ghostify.errors import ModelError
from ghostify.graph.inputs import ExampleInputs, Inputs, candidate_inputs
from ghostify.graph.meta_copy import meta_copy
from ghostify.numerics.surroundings import own_surroundings

SIZES_TRIED = 12
"""Inputs on which a network is run for real, at most, until it takes one."""


@own_surroundings()
def count(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> Count:
    """Count a network's parameters, MACs and activations, in eval mode.

    A copy of the network runs on the meta device: no data, no activation memory. Where its forward
    reads its data (``if x.sum() > 0``, ``.item()``, non-maximum suppression), shapes alone don't
    carry it to its end, and another copy runs once for real, on its own device; the count's ``how``
    says which it was. ``model`` itself is neither run nor changed.

    Args:
        model: Any module.
        example_inputs: What its ``forward`` takes. Shapes and dtypes matter; values do where the
            network is run for real.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.

    Raises:
        ModelError: The network can't take the inputs that were given.

    Example:
        >>> counted = count(nn.Conv2d(3, 8, 3, padding=1), input_size=(3, 32, 32))
        >>> counted.total.macs, counted.how
        (221184, 'shapes')
    """
    meta = meta_copy(model).eval()
    return look(model, meta, candidate_inputs(model, example_inputs, input_size)).count()


def count_both(
    original: nn.Module,
    converted: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> tuple[Count, Count]:
    """Count a network and what it was converted to, where data decides on one way through both.

    That is the way of the converted network.

    Raises:
        ModelError: A network can't take the inputs that were given.
    """
    inputs = candidate_inputs(converted, example_inputs, input_size)
    seen = look(converted, meta_copy(converted).eval(), inputs)
    if seen.real is not None:
        before = run_on_shapes(meta_copy(original).eval(), seen.real.inputs, seen.real.recorded)
        if before.error is None:
            return before.count(), seen.count()
    return count(original, example_inputs, input_size), seen.count()


@dataclass(frozen=True)
class Look:
    """How far a network could be run.

    Attributes:
        shapes: Its run on shapes alone, on the first inputs that it can take, else on those that
            bring it farthest.
        real: Its run for real; None where shapes did, or where there could be none.
        obstacle: Why there could be none.
    """

    shapes: Run
    real: RealRun | None = None
    obstacle: str = ""

    @property
    def farthest(self) -> Run:
        """The run that came farthest."""
        real = self.real
        return self.shapes if real is None or real.reach < self.shapes.reach else real

    def follow(self, meta: nn.Module) -> Run:
        """A meta copy's run on shapes, led by what the run for real read of its data."""
        if self.real is None:
            return self.shapes
        led = run_on_shapes(meta, self.real.inputs, self.real.recorded)
        return led if led.reach >= self.shapes.reach else self.shapes

    def count(self) -> Count:
        """The costs, from the run that came farthest."""
        return self.describe(self.farthest)

    def describe(self, run: Run) -> Count:
        """The costs from a run, with what kept the network from being run for real."""
        counted = run.count()
        if counted.stopped is None or not self.obstacle:
            return counted
        return replace(counted, stopped=f"{counted.stopped}; {self.obstacle}")


def look(model: nn.Module, meta: nn.Module, candidates: Iterable[Inputs]) -> Look:
    """Run a network's meta copy and, where that stops early, the network for real.

    Args:
        model: The network; it is neither run nor changed.
        meta: Its meta copy, in eval mode.
        candidates: Inputs to try, best first.

    Raises:
        ModelError: The only candidate is the caller's own, and the network can't take it.
    """
    tries = _Tries(iter(candidates))
    shapes = tries.run(meta)
    if shapes.error is None:
        return Look(shapes)
    real, obstacle = _run_for_real(model, tries.for_real(shapes), str(shapes.stopped))
    ran = real is not None and real.error is None
    if not ran and not shapes.inputs.assumed and not needs_data(shapes.error):
        raise ModelError(
            f"The network can't take an input of {shapes.inputs}: {shapes.stopped}. "
            "Give example_inputs (or an input size) that its forward takes."
        )
    return Look(shapes, real, obstacle)


def run_first(meta: nn.Module, candidates: Iterable[Inputs]) -> Run:
    """Run a meta copy on the first inputs that it takes, else on those that bring it farthest."""
    return _Tries(iter(candidates)).run(meta)


@dataclass
class _Tries:
    """Inputs that a network is tried with."""

    candidates: Iterator[Inputs]
    need_data: list[Inputs] = field(default_factory=list)

    def run(self, meta: nn.Module) -> Run:
        farthest: Run | None = None
        for inputs in self.candidates:
            run = run_on_shapes(meta, inputs)
            if run.error is None:
                return run
            if farthest is None or run.calls > farthest.calls:
                farthest = run
            if needs_data(run.error):
                self.need_data.append(inputs)
                if run.macs:
                    break  # another size would stop there too
        assert farthest is not None, "there is always a candidate"
        return farthest

    def for_real(self, farthest: Run) -> Iterator[Inputs]:
        """Those that it may take: what brought it farthest, then what stopped for want of data."""
        others = (inputs for inputs in self.need_data if inputs is not farthest.inputs)
        untried = self.candidates if self.need_data else iter(())
        return islice(chain([farthest.inputs], others, untried), SIZES_TRIED)


def run_on_shapes(meta: nn.Module, inputs: Inputs, readings: Readings | None = None) -> Run:
    """On the meta device; pretending to be on the CPU where the forward has tensors there."""
    run = Run(meta, inputs, readings=readings)
    if run.error is not None and (readings or _is_of_devices(run.error)):
        try:
            pretended = Run(meta, inputs, pretend_cpu=True, readings=readings)
        except ModelError:  # tensors that have no form without data (quantised ones)
            return run
        if pretended.error is None or pretended.calls > run.calls:
            return pretended
    return run


def _is_of_devices(error: Exception) -> bool:
    return "device" in str(error) or "copy out of meta" in str(error)


def _run_for_real(
    model: nn.Module, candidates: Iterable[Inputs], shapes_end: str
) -> tuple[RealRun | None, str]:
    """The first run that comes to its end, else the farthest; or why there is none."""
    if any(t.is_meta for t in chain(model.parameters(), model.buffers())):
        return None, "its weights have no data (meta device), so that it can't be run for real"
    limits = Limits()
    farthest: RealRun | None = None
    for inputs in candidates:
        try:
            run = RealRun(model, inputs, limits, shapes_end)
        except (TooBig, ModelError) as error:
            return farthest, f"it can't be run for real: {error}"
        if run.error is None:
            return run, ""
        if farthest is None or run.calls > farthest.calls:
            farthest = run
        if isinstance(run.error, TooBig):
            break
    return farthest, ""


def needs_data(error: Exception) -> bool:
    """Whether a pass stopped because it has no data, and not because it can't take the input."""
    if isinstance(
        error, NotImplementedError | DynamicOutputShapeException | DataDependentOutputException
    ):
        return True
    return "meta" in str(error)
