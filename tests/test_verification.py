"""Each check passes for a sound conversion, and fails for a network that is broken in its way."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import nn

import ghostify
from ghostify.errors import ModelError
from ghostify.verification import CHECKS, Check

COMPILERS = ("torch.compile", "torch.export", "ONNX")


@pytest.fixture
def check(monkeypatch):
    """One check, by name, of a network on an 8 x 8 image."""

    def only(name: str, model: nn.Module, **options) -> Check:
        monkeypatch.setattr("ghostify.verification.CHECKS", {name: CHECKS[name]})
        (found,) = ghostify.verify(model, input_size=(3, 8, 8), **options)
        assert found.name == name and found.seconds > 0
        return found

    return only


class Net(nn.Module):
    """A ghost module, and whatever is done to its output."""

    def __init__(self, then=lambda x: x):
        super().__init__()
        self.conv = ghostify.GhostConv2d(3, 16, 3)
        self.then = then

    def forward(self, x):
        return self.then(self.conv(x))


@pytest.mark.parametrize("name", [name for name in CHECKS if name not in (*COMPILERS, "save/load")])
def test_a_sound_network_passes_each_check(check, name):
    found = check(name, Net())
    assert (found.status, str(found).split()[0]) == ("ok", name.split()[0])
    assert found.detail


@pytest.mark.parametrize("name", COMPILERS)
def test_a_sound_network_passes_the_compilers(check, name, small_net):
    if name == "ONNX":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    assert check(name, ghostify.convert(small_net, s=2)).status == "ok"


def test_a_network_that_was_converted_by_name_passes_all_that_needs_no_compiler(monkeypatch):
    quick = {name: f for name, f in CHECKS.items() if name not in COMPILERS}
    monkeypatch.setattr("ghostify.verification.CHECKS", quick)
    original = ghostify.build("resnet20-cifar")
    found = list(ghostify.verify(ghostify.convert(original, s=2), original=original))
    assert [(one.name, one.status) for one in found] == [(name, "ok") for name in quick]
    assert found[0].detail == "1x10" and "19 ghost modules" in found[3].detail


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20-cifar", "mobilenet_v3_small", "timm/resnet18"])
def test_a_converted_network_passes_all_checks(name):
    if name.startswith("timm"):
        pytest.importorskip("timm")
    original = ghostify.build(name)
    size = (3, 32, 32) if "cifar" in name else (3, 64, 64)
    converted = ghostify.convert(original, s=2, input_size=size)
    found = list(ghostify.verify(converted, input_size=size, original=original))
    assert [one.name for one in found] == list(CHECKS)
    assert [str(one) for one in found if one.status == "failed"] == []


def test_verifying_leaves_the_network_as_it_was(monkeypatch, small_net):
    quick = {name: f for name, f in CHECKS.items() if name not in COMPILERS}
    monkeypatch.setattr("ghostify.verification.CHECKS", quick)
    model = ghostify.convert(small_net, s=2).train()
    before = copy.deepcopy(model.state_dict())
    list(ghostify.verify(model, input_size=(3, 16, 16)))
    assert all(torch.equal(model.state_dict()[key], before[key]) for key in before)
    assert model.training and all(p.grad is None for p in model.parameters())


# Each failure is seen


def assert_failed(found: Check, *words: str) -> None:
    assert found.status == "failed", found
    assert all(word in found.detail for word in words), found


def test_another_output_shape_fails(check, make_small_net):
    converted = ghostify.convert(make_small_net(classes=4), s=2)
    found = check("output shapes", converted, original=make_small_net(classes=5))
    assert_failed(found, "(1, 4)", "(1, 5)")


class Finder(nn.Module):
    """As many rows as the scores of the first image are above zero, `width` numbers in each."""

    def __init__(self, width=4, bias=1.0):
        super().__init__()
        self.body = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Conv2d(8, width, 1)
        nn.init.constant_(self.head.bias, bias)

    def forward(self, x):
        rows = self.head(self.body(x).relu())[0].flatten(1).T
        return rows[rows[:, 0] > 0]


def test_what_is_found_in_the_data_may_differ_in_number_and_in_nothing_else(check):
    few, many, wide = Finder(bias=-9.0), Finder(bias=9.0), Finder(width=5, bias=9.0)
    found = check("output shapes", many, original=few)
    assert found.status == "skipped" and "depend on the data" in found.detail
    assert_failed(check("output shapes", wide, original=few), "(0, 4)", "5)")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_an_output_that_is_not_finite_fails(check, value):
    assert_failed(check("forward", Net(lambda x: x * value)), "not finite")


def test_a_gradient_that_is_not_finite_fails_though_the_output_is(check):
    model = Net(lambda x: (x - x).sqrt())
    assert check("forward", model).status == "ok"
    assert_failed(check("backward", model), "not finite")


def test_a_backward_that_breaks_fails(check):
    class NoGradient(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise NotImplementedError("no gradient here")

    assert_failed(check("backward", Net(NoGradient.apply)), "no gradient here")


def test_a_network_without_parameters_has_no_backward_to_check(check):
    found = check("backward", nn.AvgPool2d(2))
    assert found.status == "skipped" and "no output depends" in found.detail


class Stubborn(Net):
    def train(self, mode=True):
        return self


def test_a_ghost_module_that_train_does_not_reach_fails(check):
    model = Stubborn()
    for module in model.modules():
        module.training = False
    assert_failed(check("train/eval", model), "train() does not reach")


class FrozenNorm(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


def test_a_part_that_the_network_keeps_in_eval_mode_is_its_own_affair(check):
    model = ghostify.convert(nn.Sequential(nn.Conv2d(3, 16, 3), FrozenNorm(16)), s=2)
    assert check("train/eval", model).status == "ok"


class Moving(Net):
    """Gives something else at each call, of whichever copy."""

    calls = itertools.count()

    def forward(self, x):
        return super().forward(x) + next(Moving.calls)


def test_an_output_that_differs_after_train_and_eval_fails(check):
    assert_failed(check("train/eval", Moving()), "back in eval mode", "not equal")


def test_a_copy_with_other_outputs_fails(check):
    assert_failed(check("deepcopy", Moving()), "the copy is not equal")


class Forgetful(nn.Module):
    """Keeps a number that is in no state_dict."""

    def __init__(self):
        super().__init__()
        self.conv, self.offset = nn.Conv2d(3, 16, 3), 0.0

    def forward(self, x):
        return self.conv(x) + self.offset


def test_a_network_that_loads_as_another_fails(check):
    original = Forgetful()
    converted = ghostify.convert(original, s=2)
    assert check("save/load", converted, original=original).status == "ok"
    converted.offset = 1.0
    assert_failed(check("save/load", converted, original=original), "not equal, bit for bit")


def test_a_network_that_nothing_builds_is_not_saved(check):
    found = check("save/load", ghostify.convert(nn.Sequential(nn.Conv2d(3, 16, 3)), s=2))
    assert found.status == "skipped" and "nothing builds the original" in found.detail


class Moody(Net):
    """Computes something else where a compiler looks at it."""

    def forward(self, x):
        x = self.conv(x)
        return x + 1 if torch.compiler.is_compiling() else x


@pytest.mark.parametrize("name", COMPILERS)
def test_a_network_that_compiles_to_another_fails(check, name):
    if name == "ONNX":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    assert_failed(check(name, Moody()), "not that of the eager network")


def test_a_network_that_cannot_be_exported_fails(check):
    assert_failed(check("torch.export", Net(lambda x: x + 1 if x.sum() > 0 else x)))


def test_onnx_is_skipped_where_it_is_not_installed(check, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = check("ONNX", Net())
    assert found.status == "skipped" and "pip install 'ghostify[onnx]'" in found.detail


# Whose fault it is


def test_what_the_original_fails_too_is_skipped(check):
    def broken(x):
        return x * float("nan")

    found = check("forward", Net(broken), original=Net(broken))
    assert found.status == "skipped" and found.detail.startswith("the original fails too")
    assert_failed(check("forward", Net(broken), original=Net()))


def test_a_network_that_cannot_run_is_refused():
    with pytest.raises(ModelError, match="1x7x8x8"):
        list(ghostify.verify(Net(), input_size=(7, 8, 8)))


def test_inputs_of_any_form_are_taken():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = ghostify.GhostConv2d(3, 16, 3)

        def forward(self, x, *, index):
            return self.conv(x)[:, index]

    inputs = {"x": torch.zeros(2, 3, 8, 8), "index": torch.tensor([1, 0])}
    found = {one.name: one for one in ghostify.verify(Two(), inputs)}
    assert found["output shapes"].detail == "2x2x6x6"
    assert [name for name, one in found.items() if one.status == "failed"] == []


def test_a_network_in_half_precision_passes(check):
    model = Net().to(torch.bfloat16)
    assert check("forward", model).status == "ok"
    assert check("deepcopy", model).status == "ok"


@pytest.mark.parametrize("size", [{"example_inputs": True}, {"input_size": (3, 10, 10)}], ids=str)
def test_the_inputs_that_the_report_was_counted_for_are_used(size):
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 64, 4)).eval()
    if "example_inputs" in size:
        size = {"example_inputs": torch.rand(4, 3, 10, 10)}
    converted = ghostify.convert(net, s=2, **size)
    found = {check.name: check for check in ghostify.verify(converted, original=net)}
    names = ("output shapes", "forward", "backward", "save/load")
    assert {found[name].status for name in names} == {"ok"}
    assert found["output shapes"].detail.endswith("x4")
