"""All that is known of a network before anything is decided: graphs, costs, ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from ghostify.cost.counting import look
from ghostify.cost.figures import Count
from ghostify.cost.run import Run
from ghostify.errors import ModelError
from ghostify.graph.ends import find_ends
from ghostify.graph.inputs import ExampleInputs, Inputs, candidate_inputs, forward_parameters
from ghostify.graph.meta_copy import meta_copy
from ghostify.graph.recording import NotRecorded, record_network
from ghostify.graph.trace import LAYERS, Region, TraceStop, Tracing, lies_in, trace
from ghostify.settings.selectors import Ends


@dataclass(frozen=True)
class Survey:
    """All that is known of a network before a plan is made; the network itself is not changed.

    Attributes:
        meta: A copy of it on the meta device, in eval mode.
        run: Its forward pass: on shapes alone or, where the network reads its data, led by what a
            run for real read.
        count: Its costs, from that pass or from the run for real.
        tracing: What of it traces.
        ends: Its first and last layers.
        lazy: Names of the modules whose shapes were unknown before the meta copy ran.
    """

    meta: nn.Module
    run: Run
    count: Count
    tracing: Tracing
    ends: Ends
    lazy: frozenset[str] = frozenset()

    @cached_property
    def seen(self) -> Tracing:
        """What of it traces or else can be recorded, and what can't.

        Good for looking: a recording is of the inputs' sizes alone.
        """
        recorded: list[Region] = []
        stops: list[TraceStop] = []
        for stop in self.tracing.stops:  # outer modules come before those inside
            if not any(lies_in(stop.module, region.name) for region in recorded):
                region = self._record(stop.module)
                if region is None:
                    stops.append(stop)
                else:
                    recorded.append(region)
        traced = [
            region
            for region in self.tracing.regions
            if not any(lies_in(region.name, other.name) for other in recorded)
        ]
        order = {name: index for index, (name, _) in enumerate(self.meta.named_modules())}
        regions = sorted([*traced, *recorded], key=lambda region: order[region.name])
        return Tracing(tuple(regions), tuple(stops))

    def _record(self, name: str) -> Region | None:
        given = frozenset() if name else _given(self.meta, self.run.inputs)
        try:
            made = record_network(self.meta.get_submodule(name), self.arguments_of(name), given)
        except NotRecorded:
            return None
        return Region(name, made.graph, made.values)

    def arguments_of(self, region: str) -> tuple[Any, ...]:
        """Arguments of a part of the network; worked out where it was not reached."""
        if not region:
            names = forward_parameters(self.meta)
            keywords = self.run.inputs.kwargs
            return (*self.run.inputs.args, *(keywords[n] for n in names if n in keywords))
        called_with = self.run.entered.get(self.run.meta.get_submodule(region))
        if called_with is not None:
            return called_with
        return next(candidate_inputs(self.meta.get_submodule(region))).args


def survey(
    model: nn.Module,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> Survey:
    """Look at a network: run its meta copy, trace it, find its ends.

    Where shapes alone don't carry it to its end, a copy with data runs once for real.

    Raises:
        ModelError: The network can't be copied, or can't take the inputs that were given; or it is
            a program of TorchScript, whose parts are no modules any more.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise ModelError(
            "Scripted and traced modules (torch.jit) can't be rewritten: "
            "give the original module, and script or trace what comes out."
        )
    meta = meta_copy(model).eval()
    lazy = frozenset(n for n, m in meta.named_modules() if isinstance(m, LazyModuleMixin))
    seen = look(model, meta, candidate_inputs(model, example_inputs, input_size))
    run = seen.follow(meta)
    # With the run that will count the converted network too, if it comes as far as any.
    count = seen.count() if seen.farthest.reach > run.reach else seen.describe(run)
    return _look(meta, run, count, lazy)


def survey_again(before: Survey) -> Survey:
    """Look at the meta copy of a survey that was rewritten since."""
    run = before.run.again(before.meta)
    return _look(before.meta, run, run.count(), before.lazy)


def _look(meta: nn.Module, run: Run, count: Count, lazy: frozenset[str]) -> Survey:
    tracing = trace(meta, _given(meta, run.inputs))
    modules = dict(meta.named_modules())
    called = [c.name for c in count.layers if c.calls and isinstance(modules[c.name], LAYERS)]
    return Survey(meta, run, count, tracing, find_ends(tracing, meta, called), lazy)


def _given(model: nn.Module, inputs: Inputs) -> frozenset[str]:
    """Names of the arguments of ``model.forward`` that the inputs fill."""
    names = list(forward_parameters(model))
    return frozenset(names[: len(inputs.args)]) | frozenset(inputs.kwargs)
