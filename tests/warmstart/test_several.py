"""Several budgets at once: the integer program beside brute force and the dynamic program."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostify.errors import SettingsError
from ghostify.warmstart.allocation.budget import Option, allocate_above
from ghostify.warmstart.allocation.several import Form, check_reachable, choose_forms, most_saved

AMOUNT = st.integers(-3, 20)


@st.composite
def instances(draw: st.DrawFn) -> tuple[list[Form], dict[str, float]]:
    """Layers with two forms each, stages of some of them, and what is to be saved."""
    layers = [f"layer{i}" for i in range(draw(st.integers(1, 4)))]
    stages = draw(st.lists(st.sets(st.sampled_from(layers), min_size=1), max_size=2))
    takes = [(name, frozenset([name])) for name in layers]
    takes += [(f"stage{i}", frozenset({f"stage{i}", *own})) for i, own in enumerate(stages)]
    forms = []
    for name, own in takes:
        for value in (2.0, 4.0)[: draw(st.integers(1, 2))]:
            saves = {"time": float(draw(AMOUNT)), "params": float(draw(AMOUNT))}
            forms.append(Form(name, value, own, saves, draw(st.integers(0, 30)) / 2))
    return forms, {"time": float(draw(st.integers(0, 30))), "params": float(draw(AMOUNT))}


def brute_force(forms: list[Form], needs: dict[str, float]) -> float | None:
    """The least loss of all subsets that are allowed."""
    best = None
    for size in range(len(forms) + 1):
        for some in combinations(forms, size):
            taken = [name for form in some for name in form.takes]
            saves = all(sum(f.saves[n] for f in some) >= need for n, need in needs.items())
            if len(set(taken)) == len(taken) and saves:
                loss = sum(form.loss for form in some)
                best = loss if best is None else min(best, loss)
    return best


@given(instances())
@settings(max_examples=60, deadline=None)
def test_the_choice_is_the_best_of_all(instance: tuple[list[Form], dict[str, float]]) -> None:
    forms, needs = instance
    found, best = choose_forms(forms, needs), brute_force(forms, needs)
    assert (found is None) == (best is None)
    if found is not None:
        taken = [name for form in found for name in form.takes]
        assert len(set(taken)) == len(taken)
        assert all(sum(f.saves[n] for f in found) >= need for n, need in needs.items())
        assert sum(form.loss for form in found) == pytest.approx(best, abs=1e-4)


@given(st.lists(st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=3),
                min_size=1, max_size=5), st.integers(0, 120))  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_with_one_budget_it_is_as_good_as_the_dynamic_program(
    layers: list[list[tuple[int, int]]], need: int
) -> None:
    options, forms, most = {}, [], 0
    for index, some in enumerate(layers):
        name, full = f"layer{index}", max(saved for saved, _ in some)
        most += full
        options[name] = [Option(1, full, 0.0)]
        for s, (saved, loss) in enumerate(some, start=2):
            options[name].append(Option(s, full - saved, float(loss)))
            forms.append(Form(name, float(s), frozenset([name]), {"macs": saved}, float(loss)))
    chosen = allocate_above(options, most - need)
    found = choose_forms(forms, {"macs": float(need)})
    assert (found is None) == (chosen is None)
    if found is not None and chosen is not None:
        losses = [next(o.loss for o in options[n] if o.s == s) for n, s in chosen.items()]
        assert sum(form.loss for form in found) == pytest.approx(sum(losses), abs=1e-4)


def test_a_stage_competes_with_the_sum_of_its_layers() -> None:
    layers = [Form(n, 2.0, frozenset([n]), {"macs": 5.0}, loss) for n, loss in (("a", 1), ("b", 2))]
    for loss, parts in ((2.5, ["stage"]), (3.5, ["a", "b"])):
        stage = Form("stage", 0.5, frozenset({"stage", "a", "b"}), {"macs": 10.0}, loss)
        found = choose_forms([*layers, stage], {"macs": 10.0})
        assert found is not None and [form.part for form in found] == parts


def test_large_budgets_are_kept_to_the_last_unit() -> None:
    forms = [Form(f"l{i}", 2.0, frozenset([f"l{i}"]), {"macs": float(10**9 + i)}, 1.0 + i * 1e-3)
             for i in range(6)]  # fmt: skip
    need = float(3 * 10**9 + 7)
    found = choose_forms(forms, {"macs": need})
    assert found is not None and sum(form.saves["macs"] for form in found) >= need


def test_budgets_that_exclude_each_other_say_how_far_each_gets() -> None:
    forms = [Form("a", 2.0, frozenset("a"), {"macs": 50.0, "params": 10.0}),
             Form("a", 4.0, frozenset("a"), {"macs": 10.0, "params": 50.0})]  # fmt: skip
    totals = {"macs": 100.0, "params": 100.0}
    check_reachable(forms, totals, {"macs": 0.5})
    with pytest.raises(SettingsError, match=r"together: alone, the least is 0.5 of the MACs and"):
        check_reachable(forms, totals, {"macs": 0.5, "params": 0.5})


def test_the_most_that_can_be_saved_leaves_what_saves_nothing() -> None:
    forms = [
        Form("a", 2.0, frozenset("a"), {"time": 3.0}),
        Form("b", 2.0, frozenset("b"), {"time": -1.0}),
    ]
    assert [form.part for form in most_saved(forms, "time", {})] == ["a"]
