"""The few verbs that users call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from torch import Tensor, nn

from ghostify import io, zoo
from ghostify.calibrated import Calibrated
from ghostify.compare import compare, describe
from ghostify.cost.counting import count as count_costs
from ghostify.cost.figures import Count
from ghostify.cost.report import Report
from ghostify.errors import ModelError, SavedFolderError, SettingsError
from ghostify.graph.inputs import ExampleInputs
from ghostify.graph.shadow import copy_network
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.cg_ghost import plan_cg_ghost
from ghostify.passes.g_ghost import plan_g_ghost
from ghostify.passes.surgery import rewrite, rewrite_
from ghostify.plans import Plan
from ghostify.provenance import Provenance, Source, provenance_of, remember, remember_source
from ghostify.recipes import SavedFolder
from ghostify.settings import CGGhost, CGhost, GGhost, Settings, make_settings
from ghostify.stage_table import StageTable, tabulate_stages
from ghostify.survey import Survey, survey

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Planner = Callable[[Survey, Any], tuple[Plan, Count]]

PLANNERS: dict[type[Settings], Planner] = {
    CGhost: plan_c_ghost,
    GGhost: plan_g_ghost,
    CGGhost: plan_cg_ghost,
}
"""What decides for the settings of each mode; a new mode is one more entry."""


def build(
    name: str,
    model_args: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
) -> nn.Module:
    """Build a network from its name, and remember the name, so that it can be saved and loaded.

    Args:
        name: A name that `models` lists (``resnet50``, ``timm/NAME``, ``resnet56-cifar``),
            ``package.module:factory`` or ``file.py:factory``.
        model_args: Keyword arguments for the factory.
        weights: A safetensors file, a checkpoint, or a name of torchvision's weights.

    Raises:
        ModelError: There is no such model, or its factory fails.
        WeightsError: The weights can't be read or don't fit.
    """
    model = zoo.build(name, model_args, weights)
    remember_source(model, Source(name, dict(model_args or {})))
    return model


def plan(
    model: nn.Module | str,
    settings: Settings | None = None,
    *,
    mode: str = CGhost.mode,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    **options: Any,
) -> Plan:
    """Say what `convert` would do, and what that saves, without converting.

    Takes what `convert` takes. Its ``report`` has the costs; print it to see the table.
    """
    inputs = {"example_inputs": example_inputs, "input_size": input_size}
    return _decide(_network(model), settings, {"mode": mode, **inputs, **options})[0]


def find_stages(
    model: nn.Module | str,
    settings: GGhost | CGGhost | None = None,
    *,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
    **options: Any,
) -> StageTable:
    """The multi-block stages of a network, and what Eq. 13 and 14 promise of each (Section 4.3).

    Args:
        model: Any network, or the name of one (see `build`).
        settings: Settings as data, in place of ``options``.
        example_inputs: What its forward takes, for the costs; worked out if not given.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
        **options: Settings of G-Ghost (``ratio``, ``min_blocks``, ..., see `GGhost`).

    Example:
        >>> [stage.name for stage in find_stages("resnet20-cifar").stages]
        ['layer1', 'layer2', 'layer3']
    """
    network = _network(model)
    chosen = _settings(settings, GGhost.mode if settings is None else CGhost.mode, options)
    stages = chosen.g if isinstance(chosen, CGGhost) else chosen
    if not isinstance(stages, GGhost):
        raise SettingsError(f"mode={chosen.mode!r} knows no stages: give mode='g-ghost'.")
    return tabulate_stages(name_of(network), survey(network, example_inputs, input_size), stages)


@overload
def convert(model: str, settings: Settings | Plan | None = None, **options: Any) -> nn.Module: ...
@overload
def convert(model: ModuleT, settings: Settings | Plan | None = None, **options: Any) -> ModuleT: ...
def convert(
    model: nn.Module | str, settings: Settings | Plan | None = None, **options: Any
) -> nn.Module:
    """Make a network cheaper: a converted copy of it, the original untouched.

    The copy is of the same class, with its methods, hooks, mode and names. C-Ghost puts ghost
    modules in the places of convolutions (Section 3.1), G-Ghost one `GGhostStage` in the place of
    each stage of several blocks (Section 4); both start from the weights that were there. What
    can't be converted is left as it is; `report` says what and why.

    Args:
        model: Any network, or the name of one (see `build`).
        settings: Settings as data (`CGhost`), or a `Plan` to follow; in place of ``mode`` and
            ``options``.
        **options: ``mode`` (``"c-ghost"``, ``"g-ghost"``, ``"cg-ghost"``) and its settings
            (see `CGhost`, `GGhost`, `CGGhost`), ``preset`` among them; ``example_inputs``, or
            ``input_size=(C, H, W)``, that costs are for. And for a
            warm start ``calibration``, images without labels (a folder, a tensor, a data set, a
            loader) or ``"data-free"``, with ``calibration_samples`` (512), ``reconstruct_minutes``
            (0: none; None: as long as its steps take), ``calibration_seed`` (0), ``mean`` and
            ``std`` (see `ghostify.warmstart.warm_start_`), ``progress`` (told what is done now);
            and ``target_macs``, the part of the MACs to leave at most, in place of ``s`` or
            ``ratio``: with these images one is chosen for each layer or stage.

    Returns:
        The converted network.

    Raises:
        SettingsError: A setting makes no sense, or a selector matches nothing.
        ModelError: The network can't be copied, or can't take the inputs that were given.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3))
        >>> cheaper = convert(net, mode="c-ghost", s=2)
        >>> type(cheaper[2]).__name__, type(net[2]).__name__
        ('GhostConv2d', 'Conv2d')
    """
    network = _network(model)
    decided, images = _follow(network, settings, options)
    converted = _remember_plan(rewrite(network, decided), network, decided)
    return converted if images is None else images.start(converted, network)


def convert_(model: ModuleT, settings: Settings | Plan | None = None, **options: Any) -> ModuleT:
    """`convert` in place: ``model`` itself is changed, and returned.

    Nothing is changed unless all of it can be.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"convert_ changes a network in place, and {model!r} is none: give one.")
    decided, images = _follow(model, settings, options)
    original = copy_network(model) if images is not None else model
    converted = _remember_plan(rewrite_(model, decided), model, decided)
    return converted if images is None else images.start(converted, original)


def report(
    model: nn.Module | str,
    example_inputs: ExampleInputs | None = None,
    input_size: Sequence[int] | None = None,
) -> Report:
    """What a conversion saved; for a network that was not converted, what it costs.

    Args:
        model: A network, or the name of one.
        example_inputs: For a network that was not converted: what its forward takes.
        input_size: ``(C, H, W)`` of one image, in place of ``example_inputs``.
    """
    network = _network(model)
    known = provenance_of(network).report
    if known is not None and example_inputs is None and input_size is None:
        return known
    counted = count_costs(network, example_inputs, input_size)
    return describe(name_of(network), network, counted)


def save(model: nn.Module, directory: str | Path, *, source: str | Source | None = None) -> Path:
    """Save a converted network: its weights as safetensors, how it was made as ``recipe.yaml``.

    What was in the folder before stays until all is written.

    Args:
        model: A network that `convert` returned (it may have been trained since).
        directory: The folder; made if it is not there.
        source: What builds the original, where it was not built by name; None leaves that to the
            caller of `load`.

    Raises:
        SavedFolderError: The folder can't be written, or belongs to something else.
    """
    known = provenance_of(model)
    given = Source(source) if isinstance(source, str) else source
    return io.save(model, Path(directory), replace(known, source=given or known.source))


def load(
    directory: str | Path,
    model: nn.Module | None = None,
    *,
    trust: bool = False,
    input_size: Sequence[int] | None = None,
) -> nn.Module:
    """Load a saved network; its outputs are those of the one that was saved, bit for bit.

    Args:
        directory: What `save` wrote.
        model: The original network, where no name builds it; it is not changed.
        trust: Whether to import and call the ``module:factory`` that the folder names.
        input_size: ``(C, H, W)`` of the image that its `report` is for; if not given, what the
            costs were counted for when it was saved.

    Raises:
        SavedFolderError: The folder is no (whole) saved network, or doesn't fit ``model``.
        ModelError: The network can't take an image of ``input_size``.
    """
    folder = io.read(Path(directory))
    original = _original(folder, trust) if model is None else model
    network = io.restore(folder, original)
    plans = folder.provenance.plans
    if plans:
        before, after = _recount(folder, original, network, input_size)
        told, start = compare(name_of(network), plans, before, after), folder.provenance.start
        told = told if start is None else start.annotate(told)
        remember(network, replace(folder.provenance, report=told))
    return network


def name_of(model: nn.Module) -> str:
    """What a network is called: the name it was built from, else its class."""
    source = provenance_of(model).source
    return source.name if source is not None else type(model).__name__


def _network(model: nn.Module | str) -> nn.Module:
    network = build(model) if isinstance(model, str) else model
    if not isinstance(network, nn.Module):
        raise ModelError(
            f"{network!r} is no torch.nn.Module and no name of one: give a network, or a name "
            "that ghostify.list_models() has."
        )
    return network


def _original(folder: SavedFolder, trust: bool) -> nn.Module:
    """The original of a saved network, built from the name that the folder tells."""
    directory, source = folder.directory, folder.provenance.source
    if source is None:
        raise SavedFolderError(
            f"{directory} does not say what builds the original network: "
            "give it, load(directory, model=original)."
        )
    if zoo.runs_user_code(source.name) and not trust:
        raise SavedFolderError(
            f"{directory} names code, {source.name!r}, that builds the original network: give "
            "trust=True (--trust) to run it, or the network itself, load(..., model=original)."
        )
    try:
        return build(source.name, source.model_args)
    except ModelError as error:
        raise SavedFolderError(
            f"The original network of {directory} can't be built. {error}"
        ) from error


def _recount(
    folder: SavedFolder,
    original: nn.Module,
    network: nn.Module,
    input_size: Sequence[int] | None,
) -> tuple[Count, Count]:
    """Costs before and after, for the image that is asked for, or the inputs of the save."""
    if input_size is not None or not folder.input_shapes:
        return count_costs(original, None, input_size), count_costs(network, None, input_size)
    try:
        return (
            count_costs(original, _example(original, folder.input_shapes)),
            count_costs(network, _example(network, folder.input_shapes)),
        )
    except ModelError:  # inputs that shapes alone don't describe
        return count_costs(original), count_costs(network)


def _example(model: nn.Module, shapes: Sequence[tuple[int, ...]]) -> tuple[Tensor, ...]:
    floats = (p.dtype for p in model.parameters() if p.dtype.is_floating_point)
    dtype = next(floats, torch.float32)
    return tuple(torch.empty(shape, dtype=dtype, device="meta") for shape in shapes)


def _settings(settings: Settings | None, mode: str, options: Mapping[str, Any]) -> Settings:
    if settings is None:
        return make_settings(mode, **options)
    if options:
        raise SettingsError(
            f"{', '.join(options)} given beside settings: put everything into the settings."
        )
    if type(settings) not in PLANNERS:
        kinds = ", ".join(kind.__name__ for kind in PLANNERS)
        raise SettingsError(
            f"settings={settings!r} are no settings: give one of {kinds}, or mode= and options."
        )
    if mode not in (CGhost.mode, settings.mode):
        raise SettingsError(f"mode={mode!r} given beside settings of {settings.mode}: leave it.")
    return settings


def _follow(
    model: nn.Module, settings: Settings | Plan | None, options: dict[str, Any]
) -> tuple[Plan, Calibrated | None]:
    """The plan to follow, the caller's own or one made from settings, and calibration images."""
    if not isinstance(settings, Plan):
        return _decide(model, settings, options)
    images = Calibrated.take(options)
    if images is not None and images.target_macs is not None:
        raise SettingsError("target_macs given beside a plan: the plan says each layer's s.")
    inputs = options.pop("example_inputs", None), options.pop("input_size", None)
    if options:
        raise SettingsError(f"{', '.join(options)} given beside a plan: the plan says it all.")
    found = survey(model, *inputs)
    rewrite_(found.hollow, settings)
    after = found.run.again(found.hollow).count()
    report = compare(name_of(model), [settings], found.count, after)
    return replace(settings, report=report), images


def _decide(
    network: nn.Module, settings: Settings | None, options: dict[str, Any]
) -> tuple[Plan, Calibrated | None]:
    """A plan made from settings, and the calibration images among the options."""
    images = Calibrated.take(options)
    inputs = options.pop("example_inputs", None), options.pop("input_size", None)
    chosen = _settings(settings, options.pop("mode", CGhost.mode), options)

    def look() -> Survey:
        return survey(network, *inputs)

    if images is not None:
        chosen, images = images.choose(network, chosen, look)
    found = look()
    decided, after = PLANNERS[type(chosen)](found, chosen)
    report = compare(name_of(network), [decided], found.count, after)
    return replace(decided, report=report), images


def _remember_plan(converted: ModuleT, original: nn.Module, decided: Plan) -> ModuleT:
    known = provenance_of(original)
    plans = (*known.plans, replace(decided, report=None))
    remember(converted, Provenance(known.source, plans, decided.report))
    return converted
