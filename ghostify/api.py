"""The few verbs that users call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar, overload

from torch import nn

from ghostify import io, zoo
from ghostify.compare import compare, describe
from ghostify.cost.counting import count as count_costs
from ghostify.cost.figures import Count
from ghostify.cost.report import Report
from ghostify.errors import ModelError, SavedFolderError, SettingsError
from ghostify.graph.inputs import ExampleInputs
from ghostify.passes.c_ghost import plan_c_ghost
from ghostify.passes.surgery import rewrite, rewrite_
from ghostify.plans import Plan
from ghostify.provenance import Provenance, Source, provenance_of, remember, remember_source
from ghostify.settings import CGhost, Settings, make_settings
from ghostify.survey import Survey, survey

ModuleT = TypeVar("ModuleT", bound=nn.Module)
Planner = Callable[[Survey, Any], tuple[Plan, Count]]

PLANNERS: dict[type[Settings], Planner] = {CGhost: plan_c_ghost}
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
    network = build(model) if isinstance(model, str) else model
    chosen = _settings(settings, mode, options)
    found = survey(network, example_inputs, input_size)
    decided, after = PLANNERS[type(chosen)](found, chosen)
    report = compare(name_of(network), [decided], found.count, after)
    return replace(decided, report=report)


@overload
def convert(model: str, settings: Settings | Plan | None = None, **options: Any) -> nn.Module: ...
@overload
def convert(model: ModuleT, settings: Settings | Plan | None = None, **options: Any) -> ModuleT: ...
def convert(
    model: nn.Module | str, settings: Settings | Plan | None = None, **options: Any
) -> nn.Module:
    """Make a network cheaper: a converted copy of it, the original untouched.

    The copy is of the same class, with its methods, hooks, mode and names; ghost modules stand in
    the places of convolutions, started from their weights (Section 3.1). What can't be converted is
    left as it is; `report` says what and why.

    Args:
        model: Any network, or the name of one (see `build`).
        settings: Settings as data (`CGhost`), or a `Plan` to follow; in place of ``mode`` and
            ``options``.
        **options: ``mode`` (``"c-ghost"``) and its settings (``s``, ``d``, ``keep``, ``only``, ...,
            see `CGhost`); ``example_inputs``, or ``input_size=(C, H, W)``, that costs are for.

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
    network = build(model) if isinstance(model, str) else model
    decided = _follow(network, settings, options)
    return _remember_plan(rewrite(network, decided), network, decided)


def convert_(model: ModuleT, settings: Settings | Plan | None = None, **options: Any) -> ModuleT:
    """`convert` in place: ``model`` itself is changed, and returned.

    Nothing is changed unless all of it can be.
    """
    decided = _follow(model, settings, options)
    return _remember_plan(rewrite_(model, decided), model, decided)


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
    network = build(model) if isinstance(model, str) else model
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
    directory: str | Path, model: nn.Module | None = None, *, trust: bool = False
) -> nn.Module:
    """Load a saved network; its outputs are those of the one that was saved, bit for bit.

    Args:
        directory: What `save` wrote.
        model: The original network, where no name builds it; it is not changed.
        trust: Whether to import and call the ``module:factory`` that the folder names.

    Raises:
        SavedFolderError: The folder is no (whole) saved network, or doesn't fit ``model``.
    """
    folder = io.read(Path(directory))
    source = folder.provenance.source
    if model is None:
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
        model = build(source.name, source.model_args)
    before = _try_count(model, folder.input_size)
    network = io.restore(folder, model)
    plans = folder.provenance.plans
    if before is not None and plans:
        after = count_costs(network, input_size=folder.input_size)
        known = replace(folder.provenance, report=compare(name_of(network), plans, before, after))
        remember(network, known)
    return network


def name_of(model: nn.Module) -> str:
    """What a network is called: the name it was built from, else its class."""
    source = provenance_of(model).source
    return source.name if source is not None else type(model).__name__


def _try_count(model: nn.Module, input_size: tuple[int, ...] | None) -> Count | None:
    try:
        return count_costs(model, input_size=input_size)
    except ModelError:
        return None


def _settings(settings: Settings | None, mode: str, options: Mapping[str, Any]) -> Settings:
    if settings is None:
        return make_settings(mode, **options)
    if options:
        raise SettingsError(
            f"{', '.join(options)} given beside settings: put everything into the settings."
        )
    return settings


def _follow(model: nn.Module, settings: Settings | Plan | None, options: dict[str, Any]) -> Plan:
    """The plan to follow: the caller's own, counted, or one made from settings."""
    if not isinstance(settings, Plan):
        return plan(model, settings, **options)
    example_inputs, input_size = (
        options.pop("example_inputs", None),
        options.pop("input_size", None),
    )
    if options:
        raise SettingsError(f"{', '.join(options)} given beside a plan: the plan says it all.")
    found = survey(model, example_inputs, input_size)
    rewrite_(found.hollow, settings)
    after = found.run.again(found.hollow).count()
    report = compare(name_of(model), [settings], found.count, after)
    return replace(settings, report=report)


def _remember_plan(converted: ModuleT, original: nn.Module, decided: Plan) -> ModuleT:
    known = provenance_of(original)
    plans = (*known.plans, replace(decided, report=None))
    remember(converted, Provenance(known.source, plans, decided.report))
    return converted
