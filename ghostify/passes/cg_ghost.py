"""Both at once: G-Ghost stages, then C-Ghost modules in what they left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, TypeVar

from ghostify.cost.figures import Count
from ghostify.errors import SettingsError
from ghostify.passes.c_ghost import layers_of, plan_c_ghost
from ghostify.passes.g_ghost import first_blocks, rebuilt, search_stages
from ghostify.passes.survey import Survey, survey_again
from ghostify.plans import Plan
from ghostify.settings import CGGhost, CGhost, GGhost
from ghostify.settings.base import selectors
from ghostify.settings.selectors import Selector, matches


def plan_cg_ghost(survey: Survey, settings: CGGhost) -> tuple[Plan, Count]:
    """Decide which stages are rebuilt, then which layers outside them become ghost modules.

    A selector of ``keep`` may mean stages, layers, or both.

    Returns:
        The plan, and the costs of the converted network.

    Raises:
        SettingsError: A selector matches neither.
    """
    g, c = share_selectors(survey, settings)
    assert g is not None and c is not None, "keep takes nothing away by itself"
    with rebuilt(survey, g) as (stages, _):
        places = [stage.place for stage in stages.stages]
        rest = survey_again(survey)
        left = {n: m for n, m in layers_of(rest.meta) if not n.startswith(tuple(places) or "\0")}
        kept = selectors("keep", c.keep)
        keep = tuple(selector for selector in kept if matches(selector, left, rest.ends))
        layers, count = plan_c_ghost(rest, replace(c, keep=keep), places)
    g_resolved, c_resolved = stages.settings.stages, layers.settings.layers
    assert g_resolved is not None and c_resolved is not None
    both = CGGhost(g_resolved, c_resolved)
    return replace(stages, settings=both, replaced=layers.replaced, kept=layers.kept), count


def share_selectors(
    survey: Survey, settings: CGGhost, options: Sequence[str] = ("keep",)
) -> tuple[GGhost | None, CGhost | None]:
    """Each mode's settings with the selectors that mean something to it.

    Args:
        survey: Of the network.
        settings: Of both modes.
        options: Those whose selectors may mean stages, layers, or both.

    Returns:
        Settings of the stages and of the layers; None where ``only`` means none of them.

    Raises:
        SettingsError: A selector matches neither.
    """
    stages = first_blocks(search_stages(survey, settings.g.min_blocks), survey)
    layers = dict(layers_of(survey.meta))
    g: GGhost | None = settings.g
    c: CGhost | None = settings.c
    for option in options:
        for_stages: list[Selector] = []
        for_layers: list[Selector] = []
        parts = (getattr(settings.g, option), getattr(settings.c, option))
        given = [*dict.fromkeys(chain(*(selectors(option, part) for part in parts)))]
        for selector in given:
            is_stage = bool(matches(selector, stages))
            is_layer = bool(matches(selector, layers, survey.ends))
            if not is_stage and not is_layer:
                raise _matches_nothing(option, selector)
            for_stages += [selector] if is_stage else []
            for_layers += [selector] if is_layer else []
        is_only = option == "only" and given
        g = None if g is None or (is_only and not for_stages) else _with(g, option, for_stages)
        c = None if c is None or (is_only and not for_layers) else _with(c, option, for_layers)
    return g, c


SettingsT = TypeVar("SettingsT", GGhost, CGhost)


def _with(settings: SettingsT, option: str, found: list[Selector]) -> SettingsT:
    changed: dict[str, Any] = {option: tuple(found)}
    return replace(settings, **changed)


def _matches_nothing(option: str, selector: Selector) -> SettingsError:
    shown = selector if isinstance(selector, str) else "the predicate"
    return SettingsError(
        f"{option}={shown!r} matches no stage and no layer: give names or glob patterns "
        "(see `ghostify stages`)."
    )
