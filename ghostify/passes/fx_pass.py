"""C-Ghost as a pass of torch.fx's own pass infrastructure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch.fx import GraphModule
from torch.fx.passes.infra.pass_base import PassBase, PassResult

from ghostify.graph.inputs import ExampleInputs
from ghostify.numerics.surroundings import own_surroundings
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.surgery import build_ghosts
from ghostify.passes.survey import survey
from ghostify.plans import Plan
from ghostify.settings import CGhost


class CGhostPass(PassBase):
    """Replace the convolutions that a graph calls by ghost modules.

    A GraphModule shares its modules with the network it was traced from; the pass puts the ghost
    modules into the GraphModule's own tables, so that network stays as it is.

    Args:
        settings: What to convert, and how.
        example_inputs: What the graph takes, for the costs; worked out if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.

    Attributes:
        plan: After a call: what was decided.

    Example:
        >>> import torch
        >>> from torch.fx.passes.infra.pass_manager import PassManager
        >>> net = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU())
        >>> result = PassManager(passes=[CGhostPass(CGhost(s=2))])(torch.fx.symbolic_trace(net))
        >>> type(result.graph_module.get_submodule("0")).__name__, type(net[0]).__name__
        ('GhostConv2d', 'Conv2d')
    """

    def __init__(
        self,
        settings: CGhost | None = None,
        example_inputs: ExampleInputs | None = None,
        input_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.settings = settings or CGhost()
        self.example_inputs, self.input_size = example_inputs, input_size
        self.plan: Plan | None = None

    @own_surroundings()
    def call(self, graph_module: GraphModule) -> PassResult:
        """Convert ``graph_module`` in place; what it calls no node for is left alone."""
        found = survey(graph_module, self.example_inputs, self.input_size)
        plan, _ = plan_c_ghost(found, self.settings)
        called = {node.target for node in graph_module.graph.nodes if node.op == "call_module"}
        self.plan = replace(plan, replaced=tuple(r for r in plan.replaced if r.name in called))
        ghosts = {id(layer): ghost for layer, ghost in build_ghosts(graph_module, self.plan)}
        for target in called:
            ghost = ghosts.get(id(graph_module.get_submodule(str(target))))
            if ghost is not None:
                graph_module.set_submodule(str(target), ghost)
        graph_module.graph.lint()
        graph_module.recompile()
        return PassResult(graph_module, bool(ghosts))
