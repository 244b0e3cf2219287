"""Parts of a network that does not trace as a whole, and what they are given."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import ghostify
from ghostify.data.spool import Spool
from ghostify.warmstart.parts import PartsInTurn, inputs_of, parts_in_order


class Pyramid(nn.Module):
    """One convolution on maps of several sizes, and a tail; data decides, so it does not trace."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.head = nn.Conv2d(16, 16, 3, padding=1)
        self.tail = nn.Conv2d(16, 16, 3, padding=1)
        self.runs = {"stem": 0, "head": 0, "tail": 0}
        for name in self.runs:
            self.get_submodule(name).register_forward_hook(lambda *_, name=name: self.count(name))

    def count(self, name: str) -> None:
        self.runs[name] += 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if x.sum() > 1e9:
            return x
        large, small = self.head(x), self.head(x[..., ::2, ::2])
        return self.tail(large + torch.nn.functional.interpolate(small, scale_factor=2.0))


def images(count: int) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_what_a_part_gets_is_found_without_what_comes_after_it() -> None:
    network, spool = Pyramid().eval(), Spool()
    spool.append(images(6))
    assert parts_in_order(network, spool) == {"stem": 1, "head": 2, "tail": 1}
    network.runs = dict.fromkeys(network.runs, 0)
    found = inputs_of("head", network, (images(6)[:4], images(6)[4:]), 2)
    assert [found.slice(span).shape for span in found.spans(1)] == [
        (4, 16, 8, 8), (4, 16, 4, 4), (2, 16, 8, 8), (2, 16, 4, 4),
    ]  # fmt: skip
    assert network.runs["stem"] == 2 and network.runs["tail"] == 0


def counted(module: nn.Module) -> list[int]:
    """The module's own runs, from now on: an entry for each."""
    runs, run = [], module.forward
    module.forward = lambda x: runs.append(1) or run(x)
    return runs


PARTS = (("stem", 1), ("head", 2), ("tail", 1))


def test_parts_get_the_same_in_turn_as_alone() -> None:
    network, spool, spans = Pyramid().eval(), Spool(), [(0, 4), (4, 6)]
    spool.append(images(6))
    parts = PartsInTurn(network, spool, spans)
    for name, calls in PARTS:
        found = parts.inputs_of(name, calls)
        alone = inputs_of(name, network, map(spool.slice, spans), calls)
        assert found.spans(1) == alone.spans(1)
        for span in found.spans(1):
            torch.testing.assert_close(found.slice(span), alone.slice(span))
    assert not any("forward" in module.__dict__ for module in network.modules())


def test_a_part_is_run_once_however_many_come_after_it() -> None:
    network, spool = Pyramid().eval(), Spool()
    spool.append(images(6))
    runs = counted(network.stem)
    parts = PartsInTurn(network, spool, [(0, 4), (4, 6)])
    for name, calls in PARTS:
        parts.inputs_of(name, calls)
    assert len(runs) == 2  # a batch each, and not once more for the tail


def test_what_does_not_fit_into_the_room_is_computed_anew(monkeypatch) -> None:
    monkeypatch.setattr("ghostify.warmstart.parts.MOST_KEPT", 4 * 4 * 16 * 8 * 8)  # one of two
    network, spool = Pyramid().eval(), Spool()
    spool.append(images(8))
    runs = counted(network.stem)
    parts = PartsInTurn(network, spool, [(0, 4), (4, 8)])
    for name, calls in PARTS:
        assert len(parts.inputs_of(name, calls)) == 8 * calls
    assert len(runs) == 3  # for the head on both batches, for the tail on one


def test_a_layer_called_for_several_sizes_is_fitted_by_what_it_gets_alone() -> None:
    torch.manual_seed(0)
    network = Pyramid().eval()
    given = images(128)
    made = ghostify.convert(network, calibration=given)
    report = ghostify.report(made)
    (row,) = (row for row in report.rows if row.name == "head")
    assert row.error is not None and row.held_out is not None
    cold = ghostify.convert(network, example_inputs=(given[:1],))
    with torch.no_grad():
        wanted = network(given)
        warm, before = (float((n(given) - wanted).square().mean()) for n in (made.eval(), cold))
    assert warm < 0.5 * before
