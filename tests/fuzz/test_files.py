"""Damaged recipes, settings, plans and weights: a sentence or a correct load, and never a hang."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

import ghostify
from ghostify import GhostifyError
from ghostify.settings import (
    make_settings,
    settings_from_dict,
    settings_from_json,
    settings_from_yaml,
)
from tests.fuzz.exploring import at_most, explore, long_or_short
from tests.fuzz.files import (
    GIGABYTES,
    SECONDS,
    check_load,
    recipe_of,
    saved,
    tiny,
    with_checksum,
)
from tests.fuzz.mutations import ODD_VALUES, damaged, texts, trees

MODES = ("c-ghost", "g-ghost", "cg-ghost")


def loads(mode: str, recipe: bytes, weights: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check_load(Path(folder) / "out", recipe, weights, saved(mode)[1])


def one_sentence_or(work: Callable[[], Any]) -> Any:
    """What the work gives; None where it is refused in one sentence."""
    with warnings.catch_warnings(), at_most(SECONDS, GIGABYTES):
        warnings.simplefilter("ignore")
        try:
            return work()
        except GhostifyError as error:
            assert str(error) and "\n" not in str(error), error
            return None


# Recipes


def of_each_mode(make: Callable[[str], st.SearchStrategy[Any]]) -> st.SearchStrategy[Any]:
    """A mode, and what is made for it."""
    return st.sampled_from(MODES).flatmap(lambda mode: st.tuples(st.just(mode), make(mode)))


def load_with_data(given: tuple[str, Any]) -> None:
    mode, data = given
    loads(mode, yaml.safe_dump(data, sort_keys=False).encode(), saved(mode)[2])


@long_or_short
def test_a_recipe_with_odd_values_is_refused_or_loads(long: bool) -> None:
    explore(
        load_with_data, of_each_mode(lambda m: trees(recipe_of(m))), long=long, few=12, shrink=long
    )


@long_or_short
def test_a_recipe_of_odd_text_is_refused_or_loads(long: bool) -> None:
    def check(given: tuple[str, str]) -> None:
        mode, text = given
        loads(mode, text.encode("utf-8", "surrogatepass"), saved(mode)[2])

    explore(check, of_each_mode(lambda m: texts(saved(m)[0])), long=long, few=10)


@long_or_short
def test_a_recipe_of_random_bytes_is_refused(long: bool) -> None:
    def check(data: bytes) -> None:
        loads("c-ghost", data, saved("c-ghost")[2])

    random = st.binary(max_size=60) | damaged(saved("c-ghost")[0].encode())
    explore(check, random, long=long, few=10)


# Weights


@long_or_short
def test_damaged_weights_are_refused_by_their_checksum(long: bool) -> None:
    def check(data: bytes) -> None:
        loads("c-ghost", saved("c-ghost")[0].encode(), data)

    explore(check, damaged(saved("c-ghost")[2]), long=long, few=10)


@long_or_short
def test_damaged_weights_with_their_own_checksum_are_refused_or_load(long: bool) -> None:
    def check(data: bytes) -> None:
        loads("c-ghost", with_checksum("c-ghost", data).encode(), data)

    explore(check, damaged(saved("c-ghost")[2]), long=long, few=12)


def other(tensor: Tensor, how: str) -> Tensor | None:
    """A tensor in the place of one, or none."""
    if how == "gone":
        return None
    if how == "longer":
        return torch.cat([tensor.reshape(-1), tensor.reshape(-1)])
    if how == "flat":
        return tensor.reshape(1, -1)
    if how == "not finite":
        return torch.full_like(tensor, float("nan")) if tensor.is_floating_point() else tensor
    return tensor.to(getattr(torch, how))


@long_or_short
def test_other_tensors_than_the_networks_are_refused_or_load(long: bool) -> None:
    def check(given: tuple[str, str, str]) -> None:
        mode, key, how = given
        tensors = load_tensors(saved(mode)[2])
        new = other(tensors.pop(key), how)
        data = save_tensors(tensors if new is None else {**tensors, key: new})
        loads(mode, with_checksum(mode, data).encode(), data)

    ways = st.sampled_from(
        ("gone", "longer", "flat", "not finite", "int8", "int64", "bool", "float16", "float64")
    )
    keys = of_each_mode(lambda mode: st.sampled_from(sorted(load_tensors(saved(mode)[2]))))
    explore(
        check, st.tuples(keys, ways).map(lambda g: (*g[0], g[1])), long=long, few=10, shrink=long
    )


# Settings and plans

plain = st.recursive(
    st.sampled_from(ODD_VALUES),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(("mode", "s", "d", "g", "c", "keep", "ratio")), inner)
    ),
    max_leaves=6,
)


def check_settings(read: Callable[[Any], Any], data: Any) -> None:
    """Settings are read or refused; those that are read go to data and back, and plan or refuse."""
    found = one_sentence_or(lambda: read(data))
    if found is None:
        return
    assert settings_from_dict(found.to_dict()) == found
    one_sentence_or(lambda: ghostify.plan(tiny(), found, input_size=(3, 8, 8)))


@long_or_short
def test_settings_of_odd_values_are_refused_or_work(long: bool) -> None:
    known = [make_settings(mode).to_dict() for mode in MODES]
    trees_of = st.sampled_from(known).flatmap(trees)
    explore(
        lambda d: check_settings(settings_from_dict, d),
        trees_of | plain,
        long=long,
        few=25,
        shrink=long,
    )


@long_or_short
def test_options_of_odd_values_are_refused_or_work(long: bool) -> None:
    def read(options: dict[str, Any]) -> Any:
        return make_settings(**{"mode": "c-ghost", **options})

    names = st.sampled_from(MODES).flatmap(
        lambda m: st.dictionaries(
            st.sampled_from(list(make_settings(m).option_names())),
            st.sampled_from(ODD_VALUES),
        ).map(lambda given: {"mode": m, **given})
    )
    explore(lambda options: check_settings(read, options), names, long=long, few=25)


@long_or_short
@pytest.mark.parametrize("kind", ["yaml", "json"])
def test_settings_of_odd_text_are_refused_or_work(kind: str, long: bool) -> None:
    read = settings_from_yaml if kind == "yaml" else settings_from_json
    whole = [make_settings(mode) for mode in MODES]
    known = [s.to_yaml() if kind == "yaml" else s.to_json() for s in whole]
    random = st.sampled_from(known).flatmap(texts) | st.text(max_size=40)
    explore(lambda text: check_settings(read, text), random, long=long, few=20, shrink=long)


@long_or_short
def test_a_plan_of_odd_values_is_refused_or_followed(long: bool) -> None:
    def check(given: tuple[str, Any]) -> None:
        plan = one_sentence_or(lambda: ghostify.Plan.from_dict(given[1]))
        if plan is not None:
            one_sentence_or(lambda: ghostify.convert(tiny(), plan, input_size=(3, 8, 8)))

    def plans(mode: str) -> st.SearchStrategy[Any]:
        whole = ghostify.plan(tiny(), mode=mode, input_size=(3, 8, 8)).to_dict()
        return trees(json.loads(json.dumps(whole)))

    explore(check, of_each_mode(plans), long=long, few=15, shrink=long)


@pytest.mark.parametrize(
    "text", ["mode: []", "mode: {a: 1}", "s: 2020-13-45", "s: !!int foo", "g: {mode: c-ghost}"]
)
def test_settings_that_once_fell_are_refused(text: str) -> None:
    with pytest.raises(GhostifyError):
        settings_from_yaml(text)
