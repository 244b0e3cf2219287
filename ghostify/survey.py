"""All that is known of a network before anything is decided: shadow, graphs, costs, ends."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from ghostify.cost.counting import Run, run_first
from ghostify.cost.figures import Count
from ghostify.graph.ends import Ends, find_ends
from ghostify.graph.inputs import ExampleInputs, Inputs, candidate_inputs
from ghostify.graph.shadow import shadow
from ghostify.graph.trace import LAYERS, Tracing, trace


@dataclass(frozen=True)
class Survey:
    """What a look at a network found; the network itself was neither run nor changed.

    Attributes:
        hollow: A copy of it on the meta device, in eval mode.
        run: The forward pass that counted its costs.
        count: Those costs.
        tracing: What of it traces.
        ends: Its first and last layers.
    """

    hollow: nn.Module
    run: Run
    count: Count
    tracing: Tracing
    ends: Ends


def survey(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> Survey:
    """Look at a network: run its shadow, trace it, find its ends.

    Raises:
        ModelError: The network can't be copied, or can't take the inputs that were given.
    """
    hollow = shadow(model).eval()
    run = run_first(hollow, candidate_inputs(model, example_inputs, input_size))
    count = run.count()
    tracing = trace(hollow, _given(hollow, run.inputs))
    modules = dict(hollow.named_modules())
    called = [c.name for c in count.layers if c.calls and isinstance(modules[c.name], LAYERS)]
    return Survey(hollow, run, count, tracing, find_ends(tracing, hollow, called))


def _given(model: nn.Module, inputs: Inputs) -> frozenset[str]:
    """Names of the arguments of ``model.forward`` that the inputs fill."""
    names = list(inspect.signature(model.forward).parameters)
    return frozenset(names[: len(inputs.args)]) | frozenset(inputs.kwargs)
