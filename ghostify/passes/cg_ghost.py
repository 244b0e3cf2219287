"""Both at once: G-Ghost stages, then C-Ghost modules in what they left."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain

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
    g, c = _share_keep(survey, settings)
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


def _share_keep(survey: Survey, settings: CGGhost) -> tuple[GGhost, CGhost]:
    """Each mode's settings with the selectors of ``keep`` that mean something to it."""
    stages = first_blocks(search_stages(survey, settings.g.min_blocks), survey)
    layers = dict(layers_of(survey.meta))
    for_stages: list[Selector] = []
    for_layers: list[Selector] = []
    given = (selectors("keep", part.keep) for part in (settings.g, settings.c))
    for selector in dict.fromkeys(chain(*given)):
        is_stage = bool(matches(selector, stages))
        is_layer = bool(matches(selector, layers, survey.ends))
        if not is_stage and not is_layer:
            shown = selector if isinstance(selector, str) else "the predicate"
            raise SettingsError(
                f"keep={shown!r} matches no stage and no layer: give names or glob patterns "
                "(see `ghostify stages`)."
            )
        for_stages += [selector] if is_stage else []
        for_layers += [selector] if is_layer else []
    return replace(settings.g, keep=tuple(for_stages)), replace(settings.c, keep=tuple(for_layers))
