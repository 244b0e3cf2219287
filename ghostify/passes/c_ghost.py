"""C-Ghost (Section 3): which layers of a network become ghost modules, and what that saves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ghostify.cost.figures import Count
from ghostify.graph.trace import weights_read_directly
from ghostify.nn.filters import dimensions, upsampling
from ghostify.nn.ghost import GhostLayer, KernelSize
from ghostify.nn.ghost_kinds import CONV_KINDS
from ghostify.passes.rules import LAYER_KINDS, Candidate, Layer, is_layer, reason_to_keep
from ghostify.passes.surgery import build_ghosts
from ghostify.passes.survey import Survey
from ghostify.passes.trial import try_ghosts
from ghostify.plans import Kept, Plan, Replacement
from ghostify.settings import DEFAULT_D, DEFAULT_S, CGhost
from ghostify.settings.selectors import check_something_is_left, select, value_for


def plan_c_ghost(
    survey: Survey, settings: CGhost, outside: Sequence[str] = ()
) -> tuple[Plan, Count]:
    """Decide what becomes a ghost module, and count the network that results.

    The decision is tried on the survey's meta copy: what doesn't run there is left as it is. The
    survey itself stays as it was.

    Args:
        survey: The network.
        settings: What to convert, and how.
        outside: Modules whose layers are no concern of the plan.

    Returns:
        The plan, and the costs of the converted network.

    Raises:
        SettingsError: A selector matches nothing.
    """
    meta = survey.meta
    layers = {n: layer for n, layer in layers_of(meta) if not _is_inside(n, outside)}
    wanted, resolved = _choose(layers, settings, survey)
    maps = {layer.name: layer.maps for layer in survey.count.layers}
    tied, read = _tied(meta), set(weights_read_directly(survey.tracing, meta))
    replaced: list[Replacement] = []
    kept = [k for k in _not_convertible(survey, layers) if not _is_inside(k.name, outside)]
    for name, layer in layers.items():
        if name not in wanted:
            if settings.linear or not isinstance(layer, nn.Linear):
                kept.append(Kept(name, type(layer).__name__, "not selected"))
            continue
        candidate = Candidate(
            name,
            layer,
            s=value_for(name, settings.s, DEFAULT_S, survey.ends),
            d=_reach(layer, value_for(name, settings.d, DEFAULT_D, survey.ends), maps.get(name)),
            bias_mode=settings.bias_mode,
            lazy=name in survey.lazy,
            costlier=settings.costlier,
            divisor=settings.divisor,
            tied_to=tied.get(name),
            read_directly=name in read,
        )
        reason = reason_to_keep(candidate)
        if reason is None:
            replaced.append(_replacement(candidate))
        else:
            kept.append(Kept(name, type(layer).__name__, reason))
    untraced = tuple(f"{s.module or 'the network'}: {s.where}" for s in survey.tracing.stops)
    return _try(survey, Plan(resolved, tuple(replaced), tuple(kept), untraced))


def _is_inside(name: str, modules: Sequence[str]) -> bool:
    return any(name.startswith(f"{module}.") for module in modules)


def layers_of(model: nn.Module) -> Iterator[tuple[str, Layer]]:
    """The convolutions and linear layers of a network, those inside ghost modules left out."""
    inside: set[nn.Module] = set()
    for name, module in model.named_modules():
        if isinstance(module, GhostLayer):
            inside.update(module.modules())
        elif is_layer(module) and module not in inside:
            yield name, module


def _choose(layers: dict[str, Layer], settings: CGhost, survey: Survey) -> tuple[set[str], CGhost]:
    """The layers that are meant, and the settings with predicates turned into names."""
    # A predicate may look at weights, but it must not: on the meta copy they have none to show.
    kinds = LAYER_KINDS if settings.linear else CONV_KINDS
    convertible = {name: layer for name, layer in layers.items() if isinstance(layer, kinds)}
    chosen = {"keep": set[str](), "only": set(layers)}
    resolved: dict[str, Any] = {}
    for option in ("keep", "only"):
        selectors = getattr(settings, option)
        if selectors:
            chosen[option] = set()
        for selector in selectors:
            # A predicate on convolutions need not know what else there is.
            known = convertible if callable(selector) else layers
            chosen[option] |= select([selector], known, survey.ends, option)
        if any(callable(selector) for selector in selectors):
            resolved[option] = tuple(sorted(chosen[option]))
    for option in ("s", "d"):
        patterns = getattr(settings, option)
        if not isinstance(patterns, int):
            for pattern in patterns:
                select([pattern], layers, survey.ends, option)
    wanted = (chosen["only"] - chosen["keep"]) & convertible.keys()
    check_something_is_left("layer", settings.only, settings.keep, chosen["only"] - chosen["keep"])
    return wanted, replace(settings, **resolved)


def _tied(model: nn.Module) -> dict[str, str]:
    """Layers whose parameters another module holds too, and that module's name."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(name)
    shared = [names for names in holders.values() if len(names) > 1]
    return {
        name: next(other for other in names if other != name)
        for names in shared
        for name in names
        if any(other != name for other in names)
    }


def _not_convertible(survey: Survey, layers: dict[str, Layer]) -> Iterator[Kept]:
    """Convolutions that are no module of PyTorch's: said, so that nobody seeks them in vain."""
    for name, module in survey.meta.named_modules():
        is_other = isinstance(module, _ConvNd) and not isinstance(module, CONV_KINDS)
        if is_other and not _in_ghost(name, survey.meta):
            kind = type(module).__name__
            yield Kept(name, kind, "a convolution of a kind that no ghost module stands for")
    modules = dict(survey.meta.named_modules())
    for layer in survey.count.layers:
        if layer.cost.conv_macs and not isinstance(modules[layer.name], _ConvNd):
            reason = "a functional convolution in its forward: no module to replace"
            yield Kept(layer.name, layer.kind, reason)


def _in_ghost(name: str, model: nn.Module) -> bool:
    parent = model.get_submodule(name.rpartition(".")[0])
    return isinstance(parent, GhostLayer)


def _replacement(candidate: Candidate) -> Replacement:
    return Replacement(
        name=candidate.name,
        kind=type(candidate.layer).__name__,
        s=candidate.s,
        d=candidate.d,
        in_channels=candidate.in_channels,
        out_channels=candidate.out_channels,
        kernel_size=candidate.kernel_size,
        upsampling=upsampling(candidate.layer),
        divisor=candidate.divisor,
    )


def _reach(layer: Layer, d: int, shape: tuple[int, ...] | None) -> KernelSize:
    """The cheap kernel's sizes: 1 where maps are one pixel wide, and there is nothing beside it."""
    if isinstance(layer, nn.Linear):
        return 1
    sides = dimensions(layer)
    if shape is None or 1 not in shape[-sides:]:
        return d
    sizes = tuple(1 if size == 1 else d for size in shape[-sides:])
    return sizes[0] if len(set(sizes)) == 1 else sizes


def _try(survey: Survey, plan: Plan) -> tuple[Plan, Count]:
    """Try a plan on the survey's meta copy; layers that break it are kept."""
    items = {item.name: item for item in plan.replaced}
    pairs = dict(zip(items, build_ghosts(survey.meta, plan), strict=True))
    offenders, count = try_ghosts(survey, pairs)
    kept = (Kept(name, items[name].kind, reason) for name, reason in offenders.items())
    works = tuple(item for name, item in items.items() if name not in offenders)
    return replace(plan, replaced=works, kept=(*plan.kept, *kept)), count
