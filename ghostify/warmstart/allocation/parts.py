"""The layers and stages of a network side by side: what each may become, at what cost and loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.nn.modules.conv import _ConvNd

from ghostify.cost.figures import Cost, Count, add_costs
from ghostify.data.spool import Spool
from ghostify.errors import SettingsError
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.cg_ghost import share_selectors
from ghostify.passes.g_ghost import plan_g_ghost
from ghostify.passes.survey import Survey
from ghostify.plans import Kept, Plan, Replacement, StageRebuild
from ghostify.progress import Progress
from ghostify.settings import (
    DEFAULT_RATIO,
    DEFAULT_S,
    Auto,
    CGGhost,
    CGhost,
    GGhost,
    Settings,
)
from ghostify.warmstart.allocation.budget import macs_of
from ghostify.warmstart.allocation.layers import CHOICES, losses_of_ghosts, losses_without_data
from ghostify.warmstart.allocation.several import Form
from ghostify.warmstart.allocation.stage_losses import (
    losses_of_stages,
    losses_of_stages_without_data,
)
from ghostify.warmstart.allocation.stages import RATIOS

Losses = Mapping[str, Mapping[float, float]]
"""What each form of each part loses, by s or ratio."""


@dataclass(frozen=True)
class Parts:
    """What the layers and stages of a network may become.

    Attributes:
        settings: What was asked for, predicates turned into names.
        layers: For each s a plan with it for all layers, and what it costs; empty where the mode
            converts none.
        stages: For each ratio a plan with it for all stages, likewise.
        survey: Of the network.
    """

    settings: Settings
    layers: Mapping[int, tuple[Plan, Count]]
    stages: Mapping[float, tuple[Plan, Count]]
    survey: Survey

    def forms(self, losses: Losses | None = None) -> list[Form]:
        """What there is to choose from, with what it saves in MACs and parameters.

        Args:
            losses: What the forms lose; those that it doesn't have are left out. None: nothing
                is known, and they lose nothing.
        """
        own = self.survey.count.by_module()
        found: list[Form] = []
        inside: dict[str, frozenset[str]] = {}
        for plan, after in self.layers.values():
            costs = after.by_module()
            for layer in plan.replaced:
                saves = _saves(own.get(layer.name, Cost()), costs.get(layer.name, Cost()))
                takes = frozenset([layer.name])
                found.append(Form(layer.name, float(layer.s), takes, saves, item=layer))
        names = {form.part for form in found}
        for plan, after in self.stages.values():
            costs = after.by_module()
            for stage in plan.stages:
                if stage.name not in inside:
                    held = (n for n in names if _is_in(n, stage))
                    inside[stage.name] = frozenset([f"stage {stage.name}", *held])
                modules = [name for block in stage.blocks for name in block]
                before = add_costs(own.get(name, Cost()) for name in modules)
                saves = _saves(before, costs.get(stage.place, Cost()))
                found.append(Form(stage.name, stage.ratio, inside[stage.name], saves, item=stage))
        if losses is None:
            return found
        return [
            replace(form, loss=losses[form.part][form.value])
            for form in found
            if form.value in losses.get(form.part, {})
        ]

    def totals(self, names: Sequence[str]) -> dict[str, float]:
        """Costs of the network as it is."""
        count = self.survey.count
        read = {"macs": lambda: macs_of(count), "params": lambda: count.total.params}
        return {name: float(read[name]()) for name in names}

    def losses(
        self,
        network: nn.Module,
        forms: Sequence[Form],
        images: Spool | None,
        seed: int,
        progress: Progress,
    ) -> Losses:
        """What forms do to the output.

        Args:
            network: The trained network; it is not changed.
            forms: Those to judge.
            images: Calibration images; None to go by the weights.
            seed: Of what is drawn.
            progress: Told what is done now.
        """
        layers = {form.part for form in forms if isinstance(form.item, Replacement)}
        names = [n for n in _names(self.layers) if n in layers
                 and isinstance(network.get_submodule(n), _ConvNd)]  # fmt: skip
        sizes = {form.value for form in forms}
        plans = {s: both for s, both in self.layers.items() if s in sizes}
        stages = [form.item for form in forms if isinstance(form.item, StageRebuild)]
        found: dict[str, dict[float, float]] = {}
        if images is None:
            by_layer = losses_without_data(network, plans, names, progress) if names else {}
            by_stage = losses_of_stages_without_data(self.survey, self.stages, stages)
        else:
            by_layer = (
                losses_of_ghosts(network, plans, names, images, seed, progress) if names else {}
            )
            settings = self.settings.stages or GGhost()
            by_stage = losses_of_stages(network, settings, stages, images, seed, progress)
        for name, some in by_layer.items():
            found[name] = {float(s): loss for s, loss in some.items()}
        return {**found, **by_stage}

    def plan(self, chosen: Sequence[Form], reasons: Mapping[str, str]) -> Plan:
        """The plan that a choice means.

        Args:
            chosen: The forms.
            reasons: For what could be chosen and is not: why.
        """
        replaced = [form.item for form in chosen if isinstance(form.item, Replacement)]
        stages = [form.item for form in chosen if isinstance(form.item, StageRebuild)]
        done = {item.name for item in replaced}
        names = _names(self.layers)
        gone = {n for stage in stages for n in self._all_layers() if _is_in(n, stage)}
        first = next((plan for plan, _ in self.layers.values()), None)
        kinds = {r.name: r.kind for plan, _ in self.layers.values() for r in plan.replaced}
        kept = [k for k in (first.kept if first else ()) if k.name not in gone | set(names)]
        kept += [Kept(n, kinds[n], reasons.get(n, UNNEEDED))
                 for n in names if n not in done and n not in gone]  # fmt: skip
        rebuilt = {stage.name for stage in stages}
        could = list(dict.fromkeys(s.name for p, _ in self.stages.values() for s in p.stages))
        shown = next((plan for plan, _ in self.stages.values()), None)
        left = [k for k in (shown.kept_stages if shown else ()) if k.name not in could]
        left += [Kept(n, "stage", reasons.get(n, UNNEEDED)) for n in could if n not in rebuilt]
        order = {name: index for index, name in enumerate(names)}
        untraced = next((p.untraced for p in (first, shown) if p is not None), ())
        return Plan(
            settings=self._resolved(replaced, stages, names, could),
            replaced=tuple(sorted(replaced, key=lambda item: order[item.name])),
            kept=tuple(kept),
            untraced=untraced,
            stages=tuple(sorted(stages, key=lambda item: could.index(item.name))),
            kept_stages=tuple(left),
        )

    def _all_layers(self) -> list[str]:
        plans = [plan for plan, _ in self.layers.values()]
        names = [name for p in plans for name in (*(r.name for r in p.replaced),
                                                  *(k.name for k in p.kept))]  # fmt: skip
        return list(dict.fromkeys(names))

    def _resolved(
        self,
        replaced: Sequence[Replacement],
        stages: Sequence[StageRebuild],
        names: Sequence[str],
        could: Sequence[str],
    ) -> Settings:
        """The settings with the s and ratios that were chosen."""
        c, g = self.settings.layers, self.settings.stages
        if c is not None:
            first = next((plan for plan, _ in self.layers.values()), None)
            c = (first.settings.layers if first else None) or c
            chosen = {**dict.fromkeys(names, 1), **{item.name: item.s for item in replaced}}
            c = replace(c, s={**chosen, "*": DEFAULT_S})
        if g is not None:
            shown = next((plan for plan, _ in self.stages.values()), None)
            g = (shown.settings.stages if shown else None) or g
            ratios = {stage.name: stage.ratio for stage in stages}
            left = tuple(name for name in could if name not in ratios)
            g = replace(g, ratio=ratios or DEFAULT_RATIO, keep=(*_several(g.keep), *left))
        if isinstance(self.settings, CGGhost):
            return replace(self.settings, c=c or CGhost(), g=g or GGhost())
        resolved = c or g
        assert resolved is not None
        return resolved


UNNEEDED = "what was asked for is met without it"


def _several(selectors: object) -> tuple:
    return selectors if isinstance(selectors, tuple) else (selectors,)


def find_parts(
    survey: Survey,
    settings: Settings,
    sizes: Sequence[int] = CHOICES,
    ratios: Sequence[float] = RATIOS,
) -> Parts:
    """Plan every layer and stage in each of its forms.

    Args:
        survey: Of the network.
        settings: What to convert, and how; their s and ratio are what is chosen.
        sizes: Values of s.
        ratios: Ratios.

    Raises:
        SettingsError: A selector matches nothing, or the settings have an s or ratio already.
    """
    for name, given, default in (
        ("s", settings.layers and settings.layers.s, DEFAULT_S),
        ("ratio", settings.stages and settings.stages.ratio, DEFAULT_RATIO),
    ):
        if given is not None and given != default:
            raise SettingsError(f"{name}={given!r} given beside a target, which chooses it: "
                                f"leave {name}.")  # fmt: skip
    g, c = _split(survey, settings)
    return Parts(
        settings,
        {} if c is None else {s: plan_c_ghost(survey, replace(c, s=s)) for s in sizes},
        {} if g is None else {r: plan_g_ghost(survey, replace(g, ratio=r)) for r in ratios},
        survey,
    )


def find_parts_as_given(survey: Survey, settings: Settings) -> Parts:
    """Plan every layer and stage as the settings say: one s and one ratio each."""
    g, c = _split(survey, settings)
    return Parts(
        settings,
        {} if c is None else {0: plan_c_ghost(survey, c)},
        {} if g is None else {0.0: plan_g_ghost(survey, g)},
        survey,
    )


def _split(survey: Survey, settings: Settings) -> tuple[GGhost | None, CGhost | None]:
    """The settings of stages and of layers; None where a mode, or a selector, means none."""
    if not isinstance(settings, CGGhost):
        return settings.stages, settings.layers
    options = ("keep", "only") if isinstance(settings, Auto) else ("keep",)
    return share_selectors(survey, settings, options)


def _names(plans: Mapping[int, tuple[Plan, Count]]) -> list[str]:
    return list(dict.fromkeys(r.name for plan, _ in plans.values() for r in plan.replaced))


def _is_in(name: str, stage: StageRebuild) -> bool:
    """Whether a layer belongs to what a stage replaces."""
    modules = [stage.place, *stage.absorbed, *(n for block in stage.blocks for n in block)]
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def _saves(before: Cost, after: Cost) -> dict[str, float]:
    macs = 0 if before.macs is None or after.macs is None else before.macs - after.macs
    return {"macs": float(macs), "params": float(before.params - after.params)}
