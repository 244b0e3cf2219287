"""Networks that symbols don't carry through: recorded with one input, and searched."""

import copy

import pytest
import torch
from torch import Tensor, nn

import ghostify
from ghostify.graph.blocks import calls_of
from ghostify.graph.execution import propagate
from ghostify.graph.recording import NotRecorded, record_block, record_network
from ghostify.graph.trace import LayerTracer


class Padded(nn.Module):
    """A residual block that pads its input as its size wants it, in a loop that it counts."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        h, _ = x.shape[2:]
        pad = (4 - h % 4) % 4
        if pad > 0:
            x = nn.functional.pad(x, (0, 0, 0, pad))
        for _ in range(x.dim() // 4):
            x = x + self.b(self.a(x).relu())
        if str(x.device) not in self.cache:
            self.cache[str(x.device)] = self.a.weight * 2
        assert x.ndim == 4 and len(x) > 0
        return x[:, :, :h].contiguous()


def meta(module: nn.Module) -> nn.Module:
    return copy.deepcopy(module).to("meta").eval()


@pytest.mark.parametrize("height", [8, 6])
def test_what_a_forward_asks_of_sizes_is_answered_for_this_input(height: int) -> None:
    block, x = meta(Padded()), torch.empty(1, 8, height, 8, device="meta")
    made = record_block(block, x)
    calls = [str(node.target) for node in made.graph.nodes if node.op == "call_module"]
    assert calls == ["a", "b"]
    pads = [node for node in made.graph.nodes if node.target is nn.functional.pad]
    assert len(pads) == (height == 6)
    (out,) = (node.args[0] for node in made.graph.nodes if node.op == "output")
    assert made.values[out].shape == (1, 8, height, 8)


@pytest.mark.parametrize("height", [8, 6])
def test_the_calls_are_those_that_torch_export_sees(height: int) -> None:
    class Named(nn.Sequential):
        """Two such blocks after a convolution, and no name is the same."""

    net, x = Named(nn.Conv2d(3, 8, 1), Padded(), Padded()).eval(), torch.rand(1, 3, height, 8)
    with pytest.raises(Exception, match=r"symbolically|Proxy"):
        torch.fx.symbolic_trace(net)
    program = torch.export.export(copy.deepcopy(net), (x,), strict=False)
    stacks = [
        list(node.meta["nn_module_stack"].values())[-1][0]
        for node in program.graph.nodes
        if "conv2d" in str(node.target)
    ]
    made = record_network(meta(net), (x.to("meta"),))
    assert stacks == [str(n.target) for n in made.graph.nodes if n.op == "call_module"]


def test_recording_changes_nothing() -> None:
    block = meta(Padded())
    before = set(vars(block)), list(block.state_dict())
    record_block(block, torch.empty(1, 8, 8, 8, device="meta"))
    assert block.cache == {} and (set(vars(block)), list(block.state_dict())) == before


def test_a_network_that_traces_is_recorded_alike() -> None:
    net, x = meta(ghostify.build("resnet20-cifar")), torch.empty(1, 3, 32, 32, device="meta")
    graph = LayerTracer().trace(net)
    made = record_network(net, (x,))
    assert [(n.op, n.name, calls_of(n)) for n in made.graph.nodes] == [
        (n.op, n.name, calls_of(n)) for n in graph.nodes
    ]
    values = propagate(graph, net, (x,))
    shapes = [getattr(value, "shape", None) for value in values.values()]
    assert [getattr(value, "shape", None) for value in made.values.values()] == shapes[:-1]


def test_data_and_changes_of_items_are_no_matter_of_recording() -> None:
    class Reads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            x[0] = 1
            return x

    for kind in (Reads, Writes):
        with pytest.raises(NotRecorded, match="Error"):
            record_network(kind(), (torch.empty(1, 8, device="meta"),))


def test_stages_of_a_network_that_does_not_trace_are_found_and_rebuilt() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Padded() for _ in range(4)))
    net = nn.Sequential(nn.Conv2d(3, 8, 1), blocks, nn.Conv2d(8, 5, 1)).eval()
    found = ghostify.find_stages(net, input_size=(3, 6, 8))
    assert [(stage.name, len(stage.blocks)) for stage in found.stages] == [("1", 4)]
    converted = ghostify.convert(net, mode="g-ghost", input_size=(3, 6, 8))
    thin = converted.get_submodule("1").thin[0]
    assert type(thin) is Padded and thin.a.weight.shape == (4, 4, 1, 1)
    assert all(block.cache == {} for block in blocks)
    for height in (6, 8, 11):  # its own code: other sizes than that which was recorded
        x = torch.randn(1, 3, height, 8)
        assert converted(x).shape == net(x).shape


def test_a_stage_that_was_found_by_recording_is_warm_started() -> None:
    torch.manual_seed(0)
    blocks = nn.Sequential(*(Padded() for _ in range(4)))
    net = nn.Sequential(nn.Conv2d(3, 8, 1), blocks).eval()
    images = torch.randn(12, 3, 6, 8)
    options = {"mode": "g-ghost", "input_size": (3, 6, 8)}
    made = ghostify.convert(net, calibration=images, calibration_samples=12, **options)
    plain = ghostify.convert(net, **options)
    x = torch.randn(1, 3, 6, 8)
    with torch.no_grad():
        gaps = [(m(x) - net(x)).square().mean() for m in (made, plain)]
    assert gaps[0] < gaps[1]
