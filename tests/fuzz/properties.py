"""What holds of every conversion of every network: one property each, checked on one case."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

import ghostify
from ghostify import GhostifyError
from ghostify.api import preview
from ghostify.nn import GhostLayer
from ghostify.saving.history import history_of
from tests.fuzz.networks import Description, build, evaluating, example_of, run
from tests.fuzz.state import NOTES, form_of, look_at, random_state, same_bits


class Case:
    """One network and one conversion of it.

    Attributes:
        described: The network's description.
        options: Mode and settings.
    """

    def __init__(self, described: Description, options: dict[str, Any]) -> None:
        self.described, self.options = described, options
        self.inputs = example_of(described)
        self.network = build(described)
        self.before = look_at(self.network)
        self.drawn = random_state()
        self.refused: str | None = None
        self.converted: nn.Module = self.network
        try:
            self.converted = ghostify.convert(self.network, **self.given)
        except GhostifyError as error:
            self.refused = _sentence(error)
        self.drawn_after = random_state()
        self.after = look_at(self.network)

    @property
    def given(self) -> dict[str, Any]:
        """All that `convert` is given."""
        return {**self.options, "example_inputs": self.inputs}

    @cached_property
    def report(self) -> ghostify.Report:
        """What the conversion says of itself."""
        return ghostify.report(self.converted)

    def output(self, network: nn.Module) -> Any:
        """What a network gives in eval mode."""
        with evaluating(network):
            return run(network, self.inputs)

    def start(self) -> nn.Module:
        """The original once more; a lazy one with its shapes."""
        network = build(self.described)
        if self.described.has("lazy"):
            self.output(network)
        return network


def _sentence(error: GhostifyError) -> str:
    text = str(error)
    assert text and "\n" not in text and text[-1] in ".)?!", f"no sentence: {text!r}"
    return text


def check_original(case: Case) -> None:
    """The caller's network is untouched."""
    changed = [
        key for key in case.before | case.after if case.before.get(key) != case.after.get(key)
    ]
    assert changed == []


def check_random_state(case: Case) -> None:
    """The global generators are untouched."""
    assert case.drawn == case.drawn_after


def check_form(case: Case) -> None:
    """The output has the original's structure, shapes and types; the modes are the original's."""
    original = case.start()
    expected = case.output(original)
    found = case.output(case.converted)
    assert form_of(found) == form_of(expected)
    assert case.converted.training == original.training
    report = case.report
    # The weights of a lazy part are drawn when it first runs.
    if not report.replaced and not report.rebuilt and not case.described.has("lazy"):
        assert same_bits(found, expected)


def check_params(case: Case) -> None:
    """The report's params are those of the networks."""
    case.output(case.converted)  # a lazy part has its parameters now
    assert case.report.after.params == _params(case.converted)
    assert case.report.before.params == _params(case.start())


def _params(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _of_first(x_shape: Any, *rest: Any, **keywords: Any) -> int:
    return 2 * math.prod(x_shape)


# Products with vectors (of spectral norm), which PyTorch's counter leaves out.
_ATEN = torch.ops.aten
_VECTORS = dict.fromkeys((_ATEN.mv, _ATEN.dot, _ATEN.vdot), _of_first)


def check_macs(case: Case) -> None:
    """The report's MACs are half the operations that PyTorch's own counter sees in a real run."""
    if not case.described.has("on data"):
        _check_macs(case)


def check_macs_on_data(case: Case) -> None:
    """The same where the forward's way depends on data."""
    if case.described.has("on data"):
        _check_macs(case)


def _check_macs(case: Case) -> None:
    found = case.report.before.macs, case.report.after.macs
    assert found == (_macs(case, case.start()), _macs(case, case.converted))


def _macs(case: Case, network: nn.Module) -> int:
    with FlopCounterMode(display=False, custom_mapping=_VECTORS) as counter:
        case.output(network)
    return counter.get_total_flops() // 2


def check_plan(case: Case) -> None:
    """What `plan` says is what `convert` did, and following its data does it again."""
    plan = ghostify.plan(build(case.described), **case.given)
    assert plan == history_of(case.converted).plans[-1]
    assert preview(build(case.described), **case.given) == case.report
    inside = {name for name, m in case.converted.named_modules() if _is_ghost(m)}
    assert {item.name for item in plan.replaced} == {n for n in inside if not _in_ghost(n, inside)}
    again = ghostify.Plan.from_dict(json.loads(json.dumps(plan.to_dict())))
    assert again == plan
    followed = ghostify.convert(build(case.described), again, example_inputs=case.inputs)
    _check_alike(case, followed)


def _check_alike(case: Case, network: nn.Module) -> None:
    assert _state(network).keys() == _state(case.converted).keys()
    if not case.described.has("lazy"):  # each draws its own weights when it first runs
        assert same_bits(_state(network), _state(case.converted))
        assert same_bits(case.output(network), case.output(case.converted))


def _is_ghost(module: nn.Module) -> bool:
    return isinstance(module, GhostLayer)


def _in_ghost(name: str, ghosts: set[str]) -> bool:
    return any(name.startswith(f"{ghost}.") for ghost in ghosts)


def _state(network: nn.Module) -> dict[str, Any]:
    return dict(network.state_dict())


def check_in_place(case: Case) -> None:
    """`convert_` does what `convert` does."""
    network = build(case.described)
    assert ghostify.convert_(network, **case.given) is network
    _check_alike(case, network)


def check_training(case: Case) -> None:
    """A step of training works where it did, and reaches as much."""
    original = case.start()
    if _step(case, original) is None:
        return
    network = ghostify.convert(build(case.described), **case.given)
    told = _step(case, network, quiet=False)
    assert told is not None
    missed, finite = told
    assert finite
    if not _step(case, original)[0]:  # type: ignore[index]
        assert missed == []


def _step(case: Case, network: nn.Module, quiet: bool = True) -> tuple[list[str], bool] | None:
    """Parameters that a step does not reach, and whether all gradients are finite."""
    try:
        network.train()
        leaves = pytree.tree_leaves(run(network, case.inputs))
        outputs = [x for x in leaves if isinstance(x, Tensor) and x.requires_grad]
        if not outputs:
            return None
        sum(x.float().square().mean() for x in outputs).backward()  # type: ignore[union-attr]
    except Exception:  # the original's own limits: one value per channel, no CPU kernel, ...
        if quiet:
            return None
        raise
    wanted = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
    finite = all(torch.isfinite(p.grad).all() for _, p in wanted if p.grad is not None)
    return [name for name, p in wanted if p.grad is None], finite


def check_saving(case: Case) -> None:
    """A saved network comes back, its outputs and its state equal bit for bit."""
    if not case.described.channels_last:
        _check_saving(case)


def check_saving_of_channels_last(case: Case) -> None:
    """The same where the channels come last in memory."""
    if case.described.channels_last:
        _check_saving(case)


def _check_saving(case: Case) -> None:
    if case.described.has("lazy"):  # what has no shape yet can't be saved
        return
    network = ghostify.convert(build(case.described), **case.given)
    _disturb(network)
    with tempfile.TemporaryDirectory() as folder:
        loaded = ghostify.load(ghostify.save(network, Path(folder) / "out"), case.start())
    assert same_bits(_state(loaded), _state(network))
    assert [m.training for m in loaded.modules()] == [m.training for m in network.modules()]
    assert same_bits(case.output(loaded), case.output(network))


def _disturb(network: nn.Module) -> None:
    """Other weights than the conversion gave, as training would."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in network.parameters():
            if not torch.nn.parameter.is_lazy(parameter):
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.dtype), alpha=0.01)


def check_second(case: Case) -> None:
    """A converted network is converted again, in another mode, and saved."""
    mode = "c-ghost" if case.options["mode"] == "g-ghost" else "g-ghost"
    try:
        twice = ghostify.convert(case.converted, mode=mode, example_inputs=case.inputs)
    except GhostifyError as error:
        _sentence(error)
        return
    assert form_of(case.output(twice)) == form_of(case.output(case.converted))
    if case.described.has("lazy"):
        return
    with tempfile.TemporaryDirectory() as folder:
        loaded = ghostify.load(ghostify.save(twice, Path(folder) / "out"), case.start())
    assert same_bits(_state(loaded), _state(twice))


def check_data_free(case: Case) -> None:
    """A warm start from the weights alone runs, and all it gives is finite."""
    _check_start(case, "data-free")


def check_calibrated(case: Case) -> None:
    """A warm start from images runs, and all it gives is finite."""
    if isinstance(case.inputs, tuple) and len(case.inputs) == 1:
        (x,) = case.inputs
        if isinstance(x, Tensor):
            generator = torch.Generator().manual_seed(5)
            images = torch.randn(12, *x.shape[1:], generator=generator).to(x.dtype)
            _check_start(case, images)


def _check_start(case: Case, calibration: Any) -> None:
    given = build(case.described)
    before, drawn = look_at(given), random_state()
    try:
        network = ghostify.convert(given, **case.given, calibration=calibration)
    except GhostifyError as error:
        _sentence(error)
        return
    after = look_at(given)
    changed = [key for key in before | after if before.get(key) != after.get(key)]
    assert [key for key in changed if key != NOTES] == []  # copies run for real, hooks and all
    assert drawn == random_state()
    assert form_of(case.output(network)) == form_of(case.output(case.converted))
    floats = [t for t in _state(network).values() if t.is_floating_point()]
    assert all(torch.isfinite(tensor).all() for tensor in floats)


def check_fused(case: Case) -> None:
    """The inference form gives what the network gives, but for rounding; the network stays."""
    if case.described.has("lazy") or case.described.has("on data"):
        return  # no shape yet; rounding may lead another way
    network = ghostify.convert(build(case.described), **case.given)
    before = look_at(network)
    fused = ghostify.fuse(network)
    assert look_at(network) == before
    expected, found = case.output(network), case.output(fused)
    assert form_of(found) == form_of(expected)
    for one, other in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
        if isinstance(one, Tensor) and one.is_floating_point() and one.isfinite().all():
            scale = one.double().abs().max().clamp_min(1e-6) if one.numel() else 1
            rounding = max(torch.finfo(one.dtype).eps, torch.finfo(torch.float32).eps)
            difference = (one.double() - other.double()).abs()
            assert (difference <= 300 * rounding * scale).all()


PROPERTIES: dict[str, Callable[[Case], None]] = {
    "original": check_original,
    "random state": check_random_state,
    "form": check_form,
    "params": check_params,
    "macs": check_macs,
    "macs on data": check_macs_on_data,
    "plan": check_plan,
    "in place": check_in_place,
    "training": check_training,
    "saving": check_saving,
    "saving channels last": check_saving_of_channels_last,
    "second": check_second,
    "data-free": check_data_free,
    "calibrated": check_calibrated,
    "fused": check_fused,
}
"""The properties by name; a new one is one more entry."""
EVEN_IF_REFUSED = ("original", "random state")
