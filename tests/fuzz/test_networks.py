"""Random networks through every mode: all promises kept, or refused in a sentence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import assume
from hypothesis import strategies as st
from torch import nn

import ghostify
from tests.fuzz.exploring import explore, long_or_short
from tests.fuzz.networks import Description, build, descriptions, evaluating, example_of, parts, run
from tests.fuzz.options import options
from tests.fuzz.parts import Part
from tests.fuzz.properties import EVEN_IF_REFUSED, PROPERTIES, Case

SPECIAL: dict[str, st.SearchStrategy[Description]] = {
    "macs on data": descriptions(
        parts=st.lists(parts(("on data", "conv")), min_size=1, max_size=3).map(tuple)
    ),
    "saving channels last": descriptions(channels_last=st.just(True)),
}
"""Properties of networks that are rare among random ones, and such networks."""


def check(names: tuple[str, ...], described: Description, given: dict[str, Any]) -> None:
    """Convert a network and check properties of what comes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assume(_runs(described))
        case = Case(described, given)
        for name in names:
            if case.refused is None or name in EVEN_IF_REFUSED:
                PROPERTIES[name](case)


def _runs(described: Description) -> bool:
    """Whether PyTorch can run the network (kernels for its types, a border narrower than a map)."""
    try:
        with evaluating(build(described)) as network:
            run(network, example_of(described))
    except Exception:
        return False
    return True


def both(*names: str) -> Any:
    return lambda described, given: check(names, described, given)


@long_or_short
def test_a_conversion_keeps_every_promise_or_is_refused_in_one_sentence(long: bool) -> None:
    names = [name for name in PROPERTIES if name not in SPECIAL]
    explore(both(*names), descriptions(), options(), long=long, few=8)


@long_or_short
@pytest.mark.parametrize("name", SPECIAL)
def test_promises_to_special_networks_are_kept(name: str, long: bool) -> None:
    explore(both(name), SPECIAL[name], options(), long=long, few=3, shrink=long)


def test_a_lazy_network_that_never_ran_is_saved_in_no_file(tmp_path: Path) -> None:
    converted = ghostify.convert(nn.Sequential(nn.LazyConv2d(8, 3)), input_size=(3, 8, 8))
    with pytest.raises(ghostify.GhostifyError):
        ghostify.save(converted, tmp_path / "out")


@pytest.mark.parametrize(
    "described",
    [
        Description(parts=(Part(kind="lazy"), Part(width=16)), inputs="two"),
        Description(parts=(Part(kind="old weight norm"), Part(width=16, norm="batch"))),
        Description(parts=(Part(width=16), Part(kind="residual stage")), dtype=torch.bfloat16),
        Description(parts=(Part(kind="stage", width=16, norm="layer", block="Bottleneck"),)),
    ],
    ids=repr,
)
def test_what_once_failed_holds(described: Description) -> None:
    names = [name for name in PROPERTIES if name not in SPECIAL]
    for given in ({"mode": "c-ghost", "s": 2}, {"mode": "g-ghost"}):
        check(tuple(names), described, given)
