"""Where a rebuilt stage goes: in place of the module that held its blocks, or of the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import fx, nn

from ghostify.graph.blocks import calls_of, module_of
from ghostify.graph.stages import Stage
from ghostify.thinning.slicers import NotScalable

# What changes nothing on the output of a block that ends in it: it may stay in the forward code.
_HARMLESS_FUNCTIONS = frozenset(
    {nn.functional.relu, torch.relu, torch.relu_, nn.functional.relu6, "relu", "relu_"}
)
_HARMLESS_MODULES = (nn.ReLU, nn.ReLU6, nn.Identity)


@dataclass(frozen=True)
class Place:
    """Where a stage goes.

    Attributes:
        module: Qualified name of the module that the stage takes the place of.
        absorbed: Modules that become identities.
    """

    module: str
    absorbed: tuple[str, ...] = ()


def find_place(stage: Stage, model: nn.Module) -> Place:
    """Where the stage goes in ``model``.

    Raises:
        NotScalable: There is no place where it would be called just as its blocks are.
    """
    qualify = stage.region.qualify
    calls = Counter(module_of(c) for c in _all_calls(stage.region.graph))
    if stage.container is not None:
        modules = {name for block in stage.blocks for name in block.modules}
        if all(calls[name] == calls[stage.container] for name in modules):
            place = qualify(stage.container)
            _require_one_name(model, [place])
            return Place(place)
    _require_harmless_functions(stage)
    return _among_siblings(stage, model, calls)


def _among_siblings(stage: Stage, model: nn.Module, calls: Counter[str]) -> Place:
    qualify = stage.region.qualify
    first = next(name for name in stage.blocks[0].modules)
    absorbed = []
    for name in dict.fromkeys(name for block in stage.blocks for name in block.modules):
        module = model.get_submodule(qualify(name))
        if isinstance(module, _HARMLESS_MODULES) and name != first:
            if calls[name] == 1 and _count_names(model, module) == 1:
                absorbed.append(qualify(name))
        elif calls[name] != 1:
            raise NotScalable(f"{qualify(name)} is called at several places")
        elif name != first:
            absorbed.append(qualify(name))
    _require_one_name(model, [qualify(first), *absorbed])
    return Place(qualify(first), tuple(absorbed))


def _all_calls(graph: fx.Graph) -> dict[str, None]:
    return dict.fromkeys(call for node in graph.nodes for call in calls_of(node))


def _require_harmless_functions(stage: Stage) -> None:
    """Functions between the modules stay in the forward code and run on the stage's output."""
    names = {name for block in stage.blocks for name in block.functions}
    for node in stage.region.graph.nodes:
        if node.name in names and node.target not in _HARMLESS_FUNCTIONS:
            raise NotScalable(
                f"its forward calls {_function_name(node)} between the blocks' modules "
                "(a block as a module of its own can be rebuilt)"
            )


def _function_name(node: fx.Node) -> str:
    return str(getattr(node.target, "__name__", node.target))


def _require_one_name(model: nn.Module, names: Sequence[str]) -> None:
    for name in names:
        if _count_names(model, model.get_submodule(name)) > 1:
            raise NotScalable(f"{name} is used at several places")


def _count_names(model: nn.Module, module: nn.Module) -> int:
    return sum(m is module for _, m in model.named_modules(remove_duplicate=False))
