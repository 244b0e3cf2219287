"""CGhostPass: C-Ghost among torch.fx's own passes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager
from torch.fx.passes.shape_prop import ShapeProp

import ghostify
from ghostify import CGhost, GhostConv2d
from ghostify.errors import SettingsError
from ghostify.passes import CGhostPass

X = torch.randn(1, 3, 16, 16)


def test_the_graph_calls_ghost_modules_and_its_source_stays_as_it_was(small_net: nn.Module) -> None:
    graph_module = fx.symbolic_trace(small_net.eval())
    expected = small_net(X)
    result = CGhostPass(CGhost(s=2))(graph_module)
    assert result.modified and result.graph_module is graph_module
    assert isinstance(graph_module.get_submodule("body.0"), GhostConv2d)
    assert type(small_net.body[0]) is nn.Conv2d
    assert type(small_net.stem) is nn.Conv2d
    assert torch.equal(small_net(X), expected)


def test_the_pass_computes_what_convert_computes(small_net: nn.Module) -> None:
    small_net.eval()
    graph_module = fx.symbolic_trace(small_net)
    converted = CGhostPass(CGhost(s=3, d=5))(graph_module).graph_module
    torch.testing.assert_close(converted(X), ghostify.convert(small_net, s=3, d=5)(X))


def test_it_composes_with_other_passes_in_a_pass_manager(small_net: nn.Module) -> None:
    seen: list[str] = []

    def relu_to_silu(graph_module: fx.GraphModule) -> PassResult:
        for node in graph_module.graph.nodes:
            if node.target is torch.relu:
                node.target = nn.functional.silu
        graph_module.recompile()
        return PassResult(graph_module, True)

    def note_shapes(graph_module: fx.GraphModule) -> PassResult:
        ShapeProp(graph_module).propagate(X)
        seen.extend(
            str(node.target)
            for node in graph_module.graph.nodes
            if node.op == "call_module" and "tensor_meta" in node.meta
        )
        return PassResult(graph_module, False)

    manager = PassManager(passes=[relu_to_silu, CGhostPass(CGhost(s=2)), note_shapes])
    result = manager(fx.symbolic_trace(small_net.eval()))
    assert {"stem", "last"} <= set(seen)
    assert result.graph_module(X).shape == (1, 5)


def test_the_pass_run_again_changes_nothing(small_net: nn.Module) -> None:
    graph_module = CGhostPass()(fx.symbolic_trace(small_net.eval())).graph_module
    expected = graph_module(X)
    again = CGhostPass(CGhost(s=4))(graph_module)
    assert not again.modified
    assert torch.equal(again.graph_module(X), expected)


def test_the_plan_stays_with_the_pass(small_net: nn.Module) -> None:
    pass_ = CGhostPass(CGhost(keep="stem"))
    pass_(fx.symbolic_trace(small_net.eval()))
    assert pass_.plan is not None
    assert [item.name for item in pass_.plan.replaced] == ["body.0", "last"]


def test_settings_that_match_nothing_leave_the_graph_as_it_was(small_net: nn.Module) -> None:
    graph_module = fx.symbolic_trace(small_net)
    with pytest.raises(SettingsError, match="matches no layer"):
        CGhostPass(CGhost(only="nothing*"))(graph_module)
    assert type(graph_module.get_submodule("stem")) is nn.Conv2d


def test_a_module_called_at_several_nodes_stays_shared() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 3, padding=1)
            self.same = self.conv

        def forward(self, x: Tensor) -> Tensor:
            return self.same(self.conv(self.conv(x)))

    net = Twice()
    graph_module = CGhostPass()(fx.symbolic_trace(net)).graph_module
    ghosts = {m for m in graph_module.modules() if isinstance(m, GhostConv2d)}
    assert len(ghosts) == 1
    assert type(net.conv) is nn.Conv2d
    assert graph_module(torch.randn(1, 8, 6, 6)).shape == (1, 8, 6, 6)


def test_a_graph_module_is_a_network_like_any_other_for_convert(small_net: nn.Module) -> None:
    graph_module = fx.symbolic_trace(small_net.eval())
    expected = graph_module(X)
    converted = ghostify.convert(graph_module, s=2)
    assert isinstance(converted, fx.GraphModule)
    assert isinstance(converted.get_submodule("last"), GhostConv2d)
    assert torch.equal(graph_module(X), expected)
    torch.testing.assert_close(converted(X), ghostify.convert(small_net, s=2)(X))
