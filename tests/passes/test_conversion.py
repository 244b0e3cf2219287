"""What a caller gets back: his own network, ghost modules in the convolutions' places."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import ghostify
from ghostify import CGhost, GhostConv2d, GhostLinear
from ghostify.errors import GhostifyError, SettingsError


def reasons(plan: ghostify.Plan) -> dict[str, str]:
    return {kept.name: kept.reason for kept in plan.kept}


def names(plan: ghostify.Plan) -> list[str]:
    return [item.name for item in plan.replaced]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


X = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_the_original_is_not_changed(small_net: nn.Module) -> None:
    before, modules = state_of(small_net), list(map(id, small_net.modules()))
    attributes = set(small_net.__dict__)
    expected = small_net.eval()(X)
    ghostify.convert(small_net, s=2, linear=True)
    assert same_state(small_net.state_dict(), before)
    assert list(map(id, small_net.modules())) == modules
    assert set(small_net.__dict__) == attributes
    assert torch.equal(small_net(X), expected)


def test_the_copy_shares_no_memory_with_the_original(small_net: nn.Module) -> None:
    before = state_of(small_net)
    converted = ghostify.convert(small_net, s=2)
    with torch.no_grad():
        for tensor in (*converted.parameters(), *converted.buffers()):
            tensor.zero_()
    assert same_state(small_net.state_dict(), before)


def test_the_same_class_comes_back_with_methods_attributes_and_mode() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.labels = {"cat": 1}

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

        def predict(self, x: Tensor) -> Tensor:
            return self(x).flatten(1).argmax(1)

    model = Detector().eval()
    model.extra = [1, 2]
    converted = ghostify.convert(model)
    assert type(converted) is Detector
    assert converted.labels == {"cat": 1} and converted.labels is not model.labels
    assert converted.extra == [1, 2]
    assert converted.predict(X).shape == (2,)
    assert not any(m.training for m in converted.modules())
    assert all(m.training for m in ghostify.convert(model.train()).modules())


def test_names_of_the_state_stay_but_for_the_ghost_modules_parts(small_net: nn.Module) -> None:
    converted = ghostify.convert(small_net)
    assert list(converted.state_dict()) == [
        "stem.primary.weight", "stem.cheap.weight",
        "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var",
        "norm.num_batches_tracked",
        "body.0.primary.weight", "body.0.cheap.weight",
        "body.1.weight", "body.1.bias", "body.1.running_mean", "body.1.running_var",
        "body.1.num_batches_tracked",
        "last.primary.weight", "last.cheap.weight", "head.weight", "head.bias",
    ]  # fmt: skip


def test_convert_in_place_returns_the_model_itself(small_net: nn.Module) -> None:
    expected = ghostify.convert(small_net, s=2).eval()(X)
    assert ghostify.convert_(small_net, s=2) is small_net
    assert isinstance(small_net.stem, GhostConv2d)
    assert torch.equal(small_net.eval()(X), expected)


def test_convert_in_place_changes_nothing_where_a_setting_is_wrong(small_net: nn.Module) -> None:
    before = list(map(id, small_net.modules()))
    with pytest.raises(SettingsError):
        ghostify.convert_(small_net, keep="nothing_like_it")
    with pytest.raises(GhostifyError):
        ghostify.convert_(small_net, input_size=(5, 16, 16))
    assert list(map(id, small_net.modules())) == before


def test_s_1_is_the_identity_bit_for_bit(small_net: nn.Module) -> None:
    plan = ghostify.plan(small_net, s=1, linear=True)
    assert not plan.replaced and set(reasons(plan).values()) == {"s=1 is the layer itself"}
    converted = ghostify.convert(small_net, s=1, linear=True)
    assert same_state(converted.state_dict(), small_net.state_dict())
    assert torch.equal(converted.eval()(X), small_net.eval()(X))


def test_conversion_is_the_same_each_time_and_leaves_the_random_state_alone(
    small_net: nn.Module,
) -> None:
    state = torch.get_rng_state()
    one, other = (ghostify.convert(small_net, init="random", seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    assert same_state(one.state_dict(), other.state_dict())
    third = ghostify.convert(small_net, init="random", seed=4)
    assert not same_state(one.state_dict(), third.state_dict())


@pytest.mark.parametrize("linear", [False, True])
def test_linear_layers_are_converted_only_when_asked(small_net: nn.Module, linear: bool) -> None:
    converted = ghostify.convert(small_net, linear=linear)
    assert isinstance(converted.head, GhostLinear) is linear


def test_forward_hooks_stay_on_the_replaced_layer_and_are_the_copys_own(
    small_net: nn.Module,
) -> None:
    seen: list[tuple[int, ...]] = []
    handle = small_net.last.register_forward_hook(
        lambda module, args, out: seen.append(tuple(out.shape))
    )
    converted = ghostify.convert(small_net)
    assert seen == []  # neither planning nor counting runs the caller's hooks on real data
    converted(X)
    assert seen == [(2, 32, 8, 8)]
    handle.remove()
    converted(X)
    assert len(seen) == 2  # removing the original's hook leaves the copy's


def test_hooks_handed_over_in_place_can_still_be_removed(small_net: nn.Module) -> None:
    seen: list[int] = []
    handle = small_net.last.register_forward_pre_hook(lambda module, args: seen.append(1))
    ghostify.convert_(small_net)
    small_net(X)
    handle.remove()
    small_net(X)
    assert seen == [1]


def test_full_backward_hooks_stay(small_net: nn.Module) -> None:
    seen: list[int] = []
    small_net.last.register_full_backward_hook(lambda module, gin, gout: seen.append(1))
    ghostify.convert(small_net)(X).sum().backward()
    assert seen == [1]


def test_hooks_that_are_methods_are_bound_to_the_copy() -> None:
    class Recorder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.count = 0
            self.conv.register_forward_hook(self.note)

        def note(self, module: nn.Module, args: Any, out: Tensor) -> None:
            self.count += 1

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

    model = Recorder()
    converted = ghostify.convert(model)
    converted(X)
    assert (model.count, converted.count) == (0, 1)


def test_a_layer_used_at_several_places_stays_one() -> None:
    shared = nn.Conv2d(8, 8, 3, padding=1)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), shared, nn.ReLU(), shared)
    model.also = [shared]  # a plain list, which no module table knows
    plan = ghostify.plan(model)
    assert names(plan) == ["0", "1"]
    for converted in (ghostify.convert(model), ghostify.convert_(copy.deepcopy(model))):
        assert isinstance(converted[1], GhostConv2d)
        assert converted[1] is converted[3]
    converted = ghostify.convert(model)
    assert converted.also[0] is converted[1]


def test_tied_weights_are_left_tied_and_said_so() -> None:
    model = nn.Sequential(nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    model[2].weight = model[0].weight
    plan = ghostify.plan(model)
    assert names(plan) == ["1"]
    assert reasons(plan) == {
        "0": "its weight is shared with 2",
        "2": "its weight is shared with 0",
    }
    converted = ghostify.convert(model)
    assert converted[0].weight is converted[2].weight


def parametrised() -> nn.Conv2d:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    parametrize.register_parametrization(conv, "weight", nn.Tanh())
    return conv


def pruned() -> nn.Conv2d:
    conv = nn.Conv2d(8, 8, 3, padding=1)
    prune.l1_unstructured(conv, "weight", 0.5)
    return conv


SPECIAL = {
    "parametrised": (parametrised, "parametrised"),
    "new weight norm": (
        lambda: parametrizations.weight_norm(nn.Conv2d(8, 8, 3, padding=1)),
        "parametrised",
    ),
    "new spectral norm": (
        lambda: parametrizations.spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
        "parametrised",
    ),
    "old weight norm": (lambda: weight_norm(nn.Conv2d(8, 8, 3, padding=1)), "recomputed by a hook"),
    "old spectral norm": (
        lambda: spectral_norm(nn.Conv2d(8, 8, 3, padding=1)),
        "recomputed by a hook",
    ),
    "pruned": (pruned, "recomputed by a hook"),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:DeprecationWarning")
@pytest.mark.parametrize("kind", SPECIAL)
def test_a_layer_whose_weight_is_computed_is_left_with_the_reason(kind: str) -> None:
    make, reason = SPECIAL[kind]
    model = nn.Sequential(nn.Conv2d(3, 8, 3), make(), nn.Conv2d(8, 8, 3)).eval()
    plan = ghostify.plan(model)
    assert names(plan) == ["0", "2"]
    assert reason in reasons(plan)["1"]
    converted = ghostify.convert(model)
    assert converted(X).shape == model(X).shape
    x = torch.randn(1, 8, 6, 6)
    torch.testing.assert_close(converted[1](x), model[1](x))


def test_a_parametrised_bias_is_no_trap() -> None:
    conv = nn.Conv2d(3, 8, 3)
    parametrize.register_parametrization(conv, "bias", nn.Tanh())
    model = nn.Sequential(conv, nn.Conv2d(8, 8, 3))
    plan = ghostify.plan(model)
    assert names(plan) == ["1"]
    assert ghostify.convert(model)(X).shape == (2, 8, 12, 12)


def test_a_lazy_layer_is_left_with_the_reason_and_works_later() -> None:
    model = nn.Sequential(nn.LazyConv2d(8, 3), nn.Conv2d(8, 8, 3))
    plan = ghostify.plan(model)
    assert "lazy" in reasons(plan)["0"]
    converted = ghostify.convert(model)
    assert converted(X).shape == (2, 8, 12, 12)


def test_dynamically_quantised_layers_are_left(small_net: nn.Module) -> None:
    quantised = torch.ao.quantization.quantize_dynamic(
        small_net.eval(), {nn.Linear}, dtype=torch.qint8
    )
    expected = quantised(X).shape
    converted = ghostify.convert(quantised, linear=True)
    assert isinstance(converted.stem, GhostConv2d)
    assert type(converted.head) is type(quantised.head)
    assert converted(X).shape == expected


def test_quantised_convolutions_are_left() -> None:
    model = nn.Sequential(
        torch.ao.nn.quantized.Quantize(torch.tensor([0.1]), torch.tensor([0]), torch.quint8),
        torch.ao.nn.quantized.Conv2d(3, 8, 3),
        torch.ao.nn.quantized.DeQuantize(),
        nn.Conv2d(8, 8, 3),
    )
    plan = ghostify.plan(model)
    assert names(plan) == ["3"]
    assert ghostify.convert(model)(X).shape == (2, 8, 12, 12)


def test_layers_with_nothing_to_save_are_left_each_with_its_reason() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3),
        nn.Conv2d(12, 12, 3, groups=12),
        nn.Conv2d(12, 3, 1),
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 12, 3, groups=4),
    )
    assert reasons(ghostify.plan(model, s=2, d=3)) == {
        "1": "depth-wise: nothing to save",
        "2": "fewer outputs than 2s (3 < 4)",
        "3": "the ghost module would cost as much or more (Eq. 4: 0.50)",
        "4": "its 4 groups don't divide the 6 intrinsic channels",
    }


def test_costlier_converts_also_what_saves_nothing() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8))
    plan = ghostify.plan(model, s=2, d=3, costlier=True)
    assert names(plan) == ["0"]
    assert (ghostify.report(model, plan=plan).ratios.params or 0) < 1


def test_convolutions_of_no_known_kind_are_named() -> None:
    class Other(_ConvNd):
        """A convolution of a kind of its own."""

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.conv2d(x, self.weight)

    other = Other(8, 8, (3, 3), (1, 1), (0, 0), (1, 1), False, (0, 0), 1, False, "zeros")
    reason = "a convolution of a kind that no ghost module stands for"
    assert reasons(ghostify.plan(nn.Sequential(nn.Conv2d(3, 8, 3), other))) == {"1": reason}


def test_a_functional_convolution_is_named() -> None:
    class Blur(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            kernel = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype, device=x.device)
            return nn.functional.conv2d(x, kernel, groups=x.shape[1])

    plan = ghostify.plan(nn.Sequential(nn.Conv2d(3, 8, 3), Blur()))
    assert "functional convolution" in reasons(plan)["1"]


def test_grouped_convolutions_keep_their_groups_to_themselves() -> None:
    conv = nn.Conv2d(6, 12, 3, padding=1, groups=3)
    converted = ghostify.convert(nn.Sequential(conv, nn.Conv2d(12, 8, 3)), s=2)
    grouped = converted[0]
    assert isinstance(grouped, GhostConv2d)
    x = torch.randn(1, 6, 5, 5)
    other = x.clone()
    other[:, 2:4] += 1  # the second group's input
    changed = (grouped(x) != grouped(other)).any(dim=(0, 2, 3))
    assert changed.tolist() == [False] * 4 + [True] * 4 + [False] * 4


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"keep": "stem"}, ["body.0", "last"]),
        ({"keep": "last"}, ["stem", "body.0"]),
        ({"keep": "body"}, ["stem", "last"]),
        ({"keep": "b*"}, ["stem", "last"]),
        ({"keep": ["stem", "last"]}, ["body.0"]),
        ({"keep": lambda name, module: module.stride == (2, 2)}, ["stem", "body.0"]),
        ({"only": "body.*"}, ["body.0"]),
        ({"only": ["stem", "body"], "keep": "body.0"}, ["stem"]),
        ({"only": "head", "linear": True}, ["head"]),
        ({"keep": "head", "linear": True}, ["stem", "body.0", "last"]),
    ],
)
def test_selectors_choose_the_layers(
    small_net: nn.Module, selector: dict[str, Any], expected: list[str]
) -> None:
    assert names(ghostify.plan(small_net, **selector)) == expected


def test_s_and_d_go_by_pattern(small_net: nn.Module) -> None:
    plan = ghostify.plan(small_net, s={"body": 4, "*": 3}, d={"stem": 1, "last": 5})
    assert {r.name: (r.s, r.d) for r in plan.replaced} == {
        "stem": (3, 1), "body.0": (4, 3), "last": (3, 5),
    }  # fmt: skip


@pytest.mark.parametrize("option", ["keep", "only", "s", "d"])
def test_a_pattern_that_matches_nothing_is_an_error(small_net: nn.Module, option: str) -> None:
    value: Any = {"bodi": 3} if option in ("s", "d") else "bodi"
    with pytest.raises(SettingsError, match=rf"{option}='bodi' matches no layer.*did you mean"):
        ghostify.plan(small_net, **{option: value})


def test_a_plan_made_from_a_predicate_can_be_stored(small_net: nn.Module) -> None:
    plan = ghostify.plan(small_net, keep=lambda name, module: name == "stem")
    again = ghostify.Plan.from_dict(plan.to_dict())
    assert again == plan
    assert isinstance(ghostify.convert(small_net, again).last, GhostConv2d)


def test_a_plan_edited_by_hand_is_followed(small_net: nn.Module) -> None:
    from dataclasses import replace

    plan = ghostify.plan(small_net)
    fewer = replace(plan, replaced=plan.replaced[1:])
    converted = ghostify.convert(small_net, fewer)
    assert isinstance(converted.stem, nn.Conv2d)
    assert isinstance(converted.last, GhostConv2d)


def test_a_plan_for_another_network_is_refused(
    small_net: nn.Module, make_small_net: type[nn.Module]
) -> None:
    plan = ghostify.plan(small_net)
    with pytest.raises(GhostifyError, match="the plan was made for"):
        ghostify.convert(make_small_net(width=8), plan)
    with pytest.raises(GhostifyError, match="which this network doesn't have"):
        ghostify.convert(nn.Sequential(nn.Conv2d(3, 8, 3)), plan)


def test_converting_again_leaves_ghost_modules_alone(small_net: nn.Module) -> None:
    once = ghostify.convert(small_net, only="stem")
    twice = ghostify.convert(once, s=4)
    assert isinstance(twice.stem, GhostConv2d) and twice.stem.s == 2
    assert isinstance(twice.stem.primary, nn.Conv2d)
    assert isinstance(twice.last, GhostConv2d) and twice.last.s == 4


def test_settings_may_be_a_data_class(small_net: nn.Module) -> None:
    chosen = CGhost(s=4, d=1, keep="stem")
    one = ghostify.convert(small_net, chosen)
    other = ghostify.convert(small_net, mode="c-ghost", s=4, d=1, keep="stem")
    assert same_state(one.state_dict(), other.state_dict())


def test_the_bias_is_kept_in_full_or_for_the_intrinsic_maps_alone(
    make_small_net: type[nn.Module],
) -> None:
    model = make_small_net(bias=True)
    full = ghostify.convert(model)
    primary = ghostify.convert(model, bias_mode="primary")
    assert full.stem.cheap.bias is not None
    assert primary.stem.cheap.bias is None and primary.stem.primary.bias is not None


def test_a_constant_network_loses_no_bias() -> None:
    # Weights of one value in each filter are multiples of each other: projection is exact.
    conv = nn.Conv2d(3, 8, 3)
    with torch.no_grad():
        conv.weight.copy_(torch.randn(8, 1, 1, 1).expand(8, 3, 3, 3))
    model = nn.Sequential(conv, nn.ReLU(), nn.Flatten())
    torch.testing.assert_close(ghostify.convert(model)(X), model(X))


@pytest.mark.parametrize("mode", ["autocast", "channels_last", "double", "half"])
def test_a_converted_network_runs_in_every_precision_and_layout(
    small_net: nn.Module, mode: str
) -> None:
    expected = ghostify.convert(small_net.eval())(X)
    if mode == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            out = ghostify.convert(small_net)(X)
    elif mode == "channels_last":
        model = small_net.to(memory_format=torch.channels_last)
        converted = ghostify.convert(model)
        assert converted.body[0].primary.weight.is_contiguous(memory_format=torch.channels_last)
        out = converted(X.contiguous(memory_format=torch.channels_last))
    elif mode == "double":
        out = ghostify.convert(small_net.double())(X.double())
        assert out.dtype == torch.float64
    else:
        out = ghostify.convert(small_net.bfloat16())(X.bfloat16())
        assert out.dtype == torch.bfloat16
    tolerance = 1e-4 if mode in ("channels_last", "double") else 0.1
    torch.testing.assert_close(out.float(), expected, atol=tolerance, rtol=tolerance)


def test_a_converted_network_is_copied_pickled_compiled_exported(small_net: nn.Module) -> None:
    converted = ghostify.convert(small_net.eval(), linear=True)
    with torch.no_grad():
        expected = converted(X)
        assert torch.equal(copy.deepcopy(converted)(X), expected)
        assert torch.equal(pickle.loads(pickle.dumps(converted))(X), expected)
        torch._dynamo.reset()
        compiled = torch.compile(converted, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(X), expected)
        torch.testing.assert_close(torch.export.export(converted, (X,)).module()(X), expected)
        torch.testing.assert_close(torch.jit.trace(converted, X)(X), expected)


def test_train_and_eval_behave_as_the_originals(small_net: nn.Module) -> None:
    converted = ghostify.convert(small_net)
    before = converted.norm.running_mean.clone()
    converted.train()(X)
    assert not torch.equal(converted.norm.running_mean, before)
    after = converted.norm.running_mean.clone()
    converted.eval()(X)
    assert torch.equal(converted.norm.running_mean, after)


def test_a_converted_network_learns(small_net: nn.Module) -> None:
    converted = ghostify.convert(small_net.train())
    optimizer = torch.optim.SGD(converted.parameters(), lr=0.1)
    target = torch.tensor([1, 3])
    losses = []
    for _ in range(10):
        loss = nn.functional.cross_entropy(converted(X), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_network_on_the_meta_device_is_converted() -> None:
    with torch.device("meta"):
        model = ghostify.build("resnet20-cifar")
    converted = ghostify.convert(model)
    assert {p.device.type for p in converted.parameters()} == {"meta"}
    assert isinstance(converted.layer1[0].conv1, GhostConv2d)


def test_a_divisor_is_planned_counted_saved_and_followed(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 36, 3), nn.Conv2d(36, 64, 3)).eval()
    sizes, options = (3, 16, 16), {"s": 4, "divisor": 8, "keep": "0"}
    plan = ghostify.plan(network, input_size=sizes, **options)
    assert [layer.divisor for layer in plan.replaced] == [8, 8]
    assert ghostify.Plan.from_dict(plan.to_dict()) == plan
    converted = ghostify.convert(network, input_size=sizes, **options)
    assert [converted[i].primary.out_channels for i in (1, 2)] == [16, 16]
    (row, _) = ghostify.report(converted).replaced
    pixels = 12 * 12
    assert row.after.macs == pixels * 16 * (8 * 9 + 3 * 9)
    again = ghostify.load(ghostify.save(converted, tmp_path / "out"), model=network)
    x = torch.rand(1, *sizes)
    assert torch.equal(again.eval()(x), converted.eval()(x))
    fused = ghostify.fuse(converted)
    torch.testing.assert_close(fused(x), converted(x))


def test_without_a_divisor_a_plan_says_nothing_of_it() -> None:
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3))
    (row,) = ghostify.plan(network, only="1", input_size=(3, 8, 8)).to_dict()["replaced"]
    assert "divisor" not in row
