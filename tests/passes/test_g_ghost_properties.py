"""Any network of any blocks: converted to equal shapes and counted right, or left with a reason."""

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import nn

import ghostify
from ghostify.api import preview
from tests.passes.blocks import KINDS, Net


def slow_macs(model, x):
    """MACs counted by hooks on a real forward pass: convolutions and linear layers."""
    total = 0

    def count(module, args, out):
        nonlocal total
        if isinstance(module, nn.Conv2d):
            per_output = module.in_channels // module.groups * module.weight[0, 0].numel()
            total += out.numel() * per_output
        else:
            total += out.numel() * module.in_features

    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    handles = [m.register_forward_hook(count) for m in layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    return total


_options = st.fixed_dictionaries(
    {
        "ratio": st.sampled_from([0.25, 0.4, 0.5, 0.7]),
        "entry": st.sampled_from(["slice", "project"]),
        "tail": st.sampled_from(["full", "thin"]),
        "cheap": st.sampled_from([1, 3, "identity", "none"]),
        "mix": st.sampled_from(["fc", "mlp", "none"]),
        "mix_from": st.sampled_from(["all", "thin"]),
        "ghost_act": st.booleans(),
        "divisor": st.sampled_from([1, 2, 4]),
    }
)


@given(
    kind=st.sampled_from(sorted(KINDS)),
    channels=st.sampled_from([8, 12, 17, 24]),
    blocks=st.integers(3, 5),
    grouped=st.booleans(),
    options=_options,
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_shapes_stay_and_costs_are_those_of_an_independent_count(
    kind, channels, blocks, grouped, options
):
    assume(kind != "Shuffle" or channels % 2 == 0)
    groups = 4 if grouped and channels % 4 == 0 else 1
    net = Net(KINDS[kind], channels, blocks, groups).eval()
    x = torch.randn(2, 3, 12, 12)
    converted = ghostify.convert(net, mode="g-ghost", input_size=(3, 12, 12), **options)
    report = ghostify.report(converted)
    assert converted(x).shape == net(x).shape
    assert 2 * report.after.macs == slow_macs(converted, x)
    assert report.after.params == sum(p.numel() for p in converted.parameters())
    assert len(report.stages) == 1
    assert report.rebuilt or report.stages[0].reason


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_each_kind_of_block_is_rebuilt_and_saves_macs(kind):
    net = Net(KINDS[kind], channels=16, blocks=4)
    report = preview(net, mode="g-ghost", input_size=(3, 12, 12))
    assert [stage.name for stage in report.rebuilt] == ["stage"]
    assert report.ratios.macs > 1.1


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("entry", ["slice", "project"])
def test_a_rebuilt_network_trains(kind, entry):
    net = Net(KINDS[kind], channels=16, blocks=4)
    converted = ghostify.convert(net, mode="g-ghost", input_size=(3, 12, 12), entry=entry)
    converted.train()(torch.randn(4, 3, 12, 12)).square().mean().backward()
    gradients = [p.grad for p in converted.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


@given(channels=st.integers(4, 40), ratio=st.floats(0.05, 0.95), divisor=st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_complicated_channels_are_the_share_asked_for_rounded_down(channels, ratio, divisor):
    net = Net(KINDS["Basic"], channels, blocks=3)
    plan = ghostify.plan(net, mode="g-ghost", ratio=ratio, divisor=divisor, input_size=(3, 8, 8))
    wanted = int(round((1 - ratio) * channels, 6)) // divisor * divisor
    if plan.stages:
        assert plan.stages[0].complicated == wanted
    else:
        assert wanted == 0
        assert "leaves 0" in plan.kept_stages[0].reason


def test_several_inputs_reach_the_network_as_before():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = (Net(KINDS["Basic"], 8, 3) for _ in range(2))

        def forward(self, a, b, scale=1.0):
            return self.one(a) + scale * self.other(b)

    net = Two()
    inputs = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 12, 12)
    converted = ghostify.convert(net, mode="g-ghost", example_inputs=inputs)
    names = [stage.name for stage in ghostify.report(converted).rebuilt]
    assert names == ["one.stage", "other.stage"]
    assert converted(*inputs).shape == net(*inputs).shape
